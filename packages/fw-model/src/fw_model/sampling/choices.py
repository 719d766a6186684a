"""Samplers by name, and the valid timesteps and thresholds of step reuse.

Imports no torch, so that interfaces can read it.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

TRAIN_STEPS = 1000
"""Number of entries of the training grid; also the factor between sigma and the timestep."""

SamplerName = Literal["euler", "unipc"]
"""Names that the command line and the HTTP API offer; a test compares them with `SAMPLERS`."""

SAMPLERS: dict[str, str] = {
    "euler": "fw_model.sampling.samplers:EulerSampler",
    "unipc": "fw_model.sampling.samplers:UniPCSampler",
}
"""Name -> `module:class`. To add a sampler, add its class, one line here, and its name to `SamplerName`."""


def check_sampler(name: str) -> None:
    """Raise ValueError unless a sampler has this name."""
    if name not in SAMPLERS:
        raise ValueError(f"sampler is {name!r}; choose one of {', '.join(sorted(SAMPLERS))}")


def check_timesteps(timesteps: Sequence[float]) -> None:
    """Raise ValueError unless these are timesteps to sample at: numbers in (0, 1000], each smaller than the last."""
    given = ", ".join(f"{one:g}" for one in timesteps)
    falling = all(later < earlier for earlier, later in pairwise(timesteps))
    if not timesteps or not falling or not all(0 < one <= TRAIN_STEPS for one in timesteps):
        raise ValueError(
            f"timesteps is [{given}]; give falling numbers above 0 and up to {TRAIN_STEPS}, such as 1000, 750, 500, 250"
        )


def check_threshold(threshold: float) -> None:
    """Raise ValueError unless `threshold` is a valid EasyCache threshold."""
    if not 0 <= threshold < 10:
        raise ValueError(
            f"easycache is {threshold}; it must be at least 0 and below 10. It is the accumulated relative change up "
            "to which steps are reused: 0.02 to 0.2 is usual, None computes every step"
        )
