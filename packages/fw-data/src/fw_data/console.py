"""The console that commands print their tables and results to."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def stdout_console() -> "Console":
    """Standard output, wide enough for whole lines when it is not a terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)
