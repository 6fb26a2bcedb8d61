"""A chat bot: one limit for all messages, one for each chat, one more for each group.

A refusal says for how long, and mostly whom it means: then only that chat is held. The retry stands
outside and the throttle inside, so that each try waits for its turn, and the pause is the wait.
"""

from __future__ import annotations

from typing import Protocol

import stamina

from async_throttle import LimitSet, Throttle, Throttles


class TooManyRequests(Exception):
    """Status 429.

    Attributes:
        retry_after: seconds.
        chat: which chat it is about; None: it is about all of them.
    """

    def __init__(self, retry_after: float, chat: int | None) -> None:
        super().__init__(f"retry after {retry_after:g} s")
        self.retry_after = retry_after
        self.chat = chat


class Server(Protocol):
    """The bot API."""

    async def send(self, chat: int, text: str) -> int:
        """The number of the message; raises TooManyRequests."""
        ...


class Bot:
    """Sends messages as fast as the server lets it, to thousands of chats."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.everybody = Throttle(30, burst=25, name="everybody")
        self.chats: Throttles[int, Throttle] = Throttles(lambda chat: Throttle(1, burst=3))
        self.groups: Throttles[int, Throttle] = Throttles(
            lambda chat: Throttle(20, period=60, burst=18)
        )

    def limits(self, chat: int) -> LimitSet:
        """What a message to *chat* has to wait for. A set costs little: make one for each call."""
        if chat < 0:  # a group
            return LimitSet(self.everybody, self.chats[chat], self.groups[chat])
        return LimitSet(self.everybody, self.chats[chat])

    @stamina.retry(on=TooManyRequests, attempts=5, timeout=None, wait_initial=0, wait_max=0)
    async def send(self, chat: int, text: str) -> int:
        """Send *text* when it may go; try again after a refusal."""
        async with self.limits(chat):
            try:
                return await self.server.send(chat, text)
            except TooManyRequests as refusal:
                whom = self.everybody if refusal.chat is None else self.chats[chat]
                whom.pause(refusal.retry_after, empty=True)
                raise
