"""A polite end: the first SIGTERM or SIGINT asks the loop to save and leave, the second acts at once."""

import signal
from typing import Any


class Stop:
    """While entered, notes the first SIGTERM or SIGINT in `signal` (0: none) and then gives the old handlers back."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGTERM, signal.SIGINT):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not the main thread: whoever runs us there handles signals
                break
        return self

    def __exit__(self, *_: object) -> None:
        self._give_back()

    def _ask(self, number: int, _frame: object) -> None:
        self.signal = number
        self._give_back()

    def _give_back(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
