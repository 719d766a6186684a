"""Graceful shutdown on SIGTERM and SIGINT: the first signal asks the loop to save and stop, the second acts at once."""

import signal
from typing import Any


class GracefulShutdown:
    """Context that records the first SIGTERM or SIGINT in `signal` (0: none) and then restores the old handlers."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "GracefulShutdown":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._record)
            except ValueError:  # not the main thread, so signals are handled elsewhere
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _record(self, number: int, _frame: object) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
