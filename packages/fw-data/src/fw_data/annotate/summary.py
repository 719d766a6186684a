"""Figures of a run of annotate."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fw_data.dataset.schema import Refusal


@dataclass(kw_only=True)
class RunSummary:
    """Figures of a run and of the dataset after it."""

    videos: int = 0
    """Videos found."""
    planned: int = 0
    """Clips that the videos give, before the filters."""
    clips: int = 0
    """Clips in the dataset."""
    frames: int = 0
    """Frames in the dataset."""
    captioned: int = 0
    """Clips in the dataset with a caption."""
    new_clips: int = 0
    """Clips that this run annotated."""
    measured: int = 0
    """Clips that have scores but no geometry, because of --stop-after filters or --score-only."""
    quarantined: int = 0
    """Clips that failed twice and were not tried again."""
    grades: dict[str, int] = field(default_factory=dict)
    """Clips by grade."""
    refusals: list[Refusal] = field(default_factory=list)
    """Everything left out, by this run or an earlier one."""
    seconds: dict[str, float] = field(default_factory=dict)
    """CPU time of this run by stage, summed over workers."""
    wall_s: dict[str, float] = field(default_factory=dict)
    """Elapsed time of this run by pass."""

    def count(self, status: str) -> int:
        """Entries of `refusals` with a status."""
        return sum(refusal.status == status for refusal in self.refusals)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Notes how long a pass takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.wall_s[name] = time.perf_counter() - began
