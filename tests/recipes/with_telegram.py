"""python-telegram-bot: limits for the bot and for each chat, and one pause for all::

    bot = ExtBot(token, rate_limiter=RateLimiter())
    application = Application.builder().token(token).rate_limiter(RateLimiter()).build()

A message waits for its chat and holds nobody else up; one that is refused is sent again when the
pause is over, in its turn. Telegram does not say whom a refusal means, the chat or the bot, so all
wait. The library's own AIORateLimiter lets a pause end for everybody when any request that was
under way ends.

Set ``PTB_TIMEDELTA=1`` in the environment, as the library asks: refusals tell a timedelta then.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from telegram.error import RetryAfter
from telegram.ext import BaseRateLimiter

from async_throttle import LimitSet, Throttle, Throttles


class RateLimiter(BaseRateLimiter[int]):
    """Telegram's limits, as its FAQ has them.

    Args:
        tries: how often a message is sent at most; ``rate_limit_args`` of a call goes before it.
    """

    def __init__(self, tries: int = 3) -> None:
        self.tries = tries
        self.everybody = Throttle(28, burst=2, name="bot")  # 30 in any second at most
        self.chats = Throttles(limit_of)

    async def process_request(
        self,
        callback: Callable[..., Coroutine[Any, Any, Any]],
        args: Any,
        kwargs: dict[str, Any],
        endpoint: str,
        data: dict[str, Any],
        rate_limit_args: int | None,
    ) -> Any:
        if "chat_id" not in data:
            return await callback(*args, **kwargs)
        limits = LimitSet(self.everybody, self.chats[str(data["chat_id"])])
        tries = self.tries if rate_limit_args is None else rate_limit_args
        while True:
            async with limits:
                try:
                    return await callback(*args, **kwargs)
                except RetryAfter as refusal:
                    self.everybody.pause(refusal.retry_after, empty=True)
                    tries -= 1
                    if tries < 1:
                        raise

    async def initialize(self) -> None:
        """Nothing is to be done."""

    async def shutdown(self) -> None:
        """Nothing is to be done."""


def limit_of(chat: str) -> Throttle:
    """A group, whose id is negative, and a channel, which has a name: 20 a minute."""
    if chat.startswith(("-", "@")):
        return Throttle(20, period=60, burst=5, name=chat)
    return Throttle(1, burst=3, name=chat)
