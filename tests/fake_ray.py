"""As much of Ray as `RayStore` uses, in one process: an actor is an object in a thread of its own.

Where Ray is not installed, test_store_ray.py has it stand in.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
from collections.abc import Callable, Generator
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What Ray raises."""


class ActorDiedError(RayError):
    """The actor has died, and is not started again."""


exceptions = SimpleNamespace(RayError=RayError, ActorDiedError=ActorDiedError)
actors: dict[tuple[str, str], Actor] = {}
_making = threading.Lock()
calls: list[str] = []
"""The methods that were called."""


class Pending:
    """A reference to what comes of a call."""

    def __init__(self, future: concurrent.futures.Future[Any]) -> None:
        self._future = future

    def future(self) -> concurrent.futures.Future[Any]:
        return self._future

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self._future).__await__()


class Actor:
    """An actor, and the handle of it."""

    def __init__(self, cls: Callable[[], Any]) -> None:
        self.loop = asyncio.new_event_loop()
        self.dead = False
        self.cls = cls
        self.object = cls()
        threading.Thread(target=self._run, name="a fake actor", daemon=True).start()

    def _run(self) -> None:
        self.loop.run_forever()
        self.loop.close()

    def submit(self, method: str, *args: Any) -> Pending:
        """What comes of a call, by way of pickles."""
        calls.append(method)
        if self.dead:
            failed: concurrent.futures.Future[Any] = concurrent.futures.Future()
            failed.set_exception(ActorDiedError("The actor is dead.\nMore about that."))
            return Pending(failed)
        sent = pickle.dumps(args)

        async def answer() -> Any:
            answered = await getattr(self.object, method)(*pickle.loads(sent))
            return pickle.loads(pickle.dumps(answered))

        return Pending(asyncio.run_coroutine_threadsafe(answer(), self.loop))

    def restart(self) -> None:
        """Lose all that it knows."""
        self.object = self.cls()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        self.loop.stop()

    def kill(self) -> None:
        """Die for good."""
        if not self.dead:
            self.dead = True
            asyncio.run_coroutine_threadsafe(self._end(), self.loop)

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self.submit(method, *args))


class _Made:
    def __init__(self, cls: Callable[[], Any], options: dict[str, Any]) -> None:
        self.cls = cls
        self.said = options

    def options(self, **options: Any) -> _Made:
        return _Made(self.cls, options)

    def remote(self) -> Actor:
        said = self.said
        assert said["get_if_exists"]
        assert said["lifetime"] == "detached"
        assert said["max_restarts"] == -1
        key = said["namespace"], said["name"]
        with _making:
            if key not in actors or actors[key].dead:
                actors[key] = Actor(self.cls)
            return actors[key]


def remote(cls: Callable[[], Any]) -> _Made:
    """A class of actors."""
    return _Made(cls, {})


def kill_all() -> None:
    """End all actors; stores that still listen to one may make it anew meanwhile."""
    with _making:
        for actor in actors.values():
            actor.kill()
        actors.clear()
    calls.clear()
