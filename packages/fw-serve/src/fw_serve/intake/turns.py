"""Fair turns: a few places shared by many owners, so that one owner cannot keep the others waiting."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class TurnsTakenError(Exception):
    """An owner waits for too many turns."""


class Turns:
    """Hands out places in turn to the owners that wait.

    Args:
        places: number of concurrent turns.
        waiting: maximum number of turns that one owner may wait for or hold.
    """

    def __init__(self, places: int, waiting: int) -> None:
        self.free, self.most_held, self.most_waiting = places, max(1, places - 1), waiting
        self.held: Counter[str] = Counter()
        self.queues: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def turn(self, owner: str) -> AsyncIterator[None]:
        """Wait for a place and hold it. Raises TurnsTakenError if the owner waits for too many already."""
        queue = self.queues.setdefault(owner, deque())
        if len(queue) + self.held[owner] >= self.most_waiting:
            raise TurnsTakenError
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(ready)
        self._grant()
        try:
            await ready
        except asyncio.CancelledError:
            if ready.done() and not ready.cancelled():  # granted and cancelled at once
                self._release(owner)
            raise
        try:
            yield
        finally:
            self._release(owner)

    def _release(self, owner: str) -> None:
        self.free += 1
        self.held[owner] -= 1
        self._grant()

    def _grant(self) -> None:
        """Give free places to the owners in turn; an owner holds at most all places but one, if there are several."""
        for owner in list(self.queues):
            queue = self.queues[owner]
            while queue and queue[0].done():
                queue.popleft()
            if not queue:
                del self.queues[owner]
                if not self.held[owner]:
                    del self.held[owner]
            elif self.free and self.held[owner] < self.most_held:
                self.free -= 1
                self.held[owner] += 1
                queue.popleft().set_result(None)
                self.queues[owner] = self.queues.pop(owner)  # to the end of the line
