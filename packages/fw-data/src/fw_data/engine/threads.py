"""The number of CPU threads that the environment asks for."""

import os


def chosen_threads() -> int | None:
    """OMP_NUM_THREADS; None where it is not set to a positive number."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else None
