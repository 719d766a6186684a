"""Samplers by name and the valid thresholds of step reuse. Imports no torch, so that interfaces can read it."""

from typing import Literal

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


def check_threshold(threshold: float) -> None:
    """Raise ValueError unless `threshold` is a valid EasyCache threshold."""
    if not 0 <= threshold < 10:
        raise ValueError(
            f"easycache is {threshold}; it must be at least 0 and below 10. It is the accumulated relative change up "
            "to which steps are reused: 0.02 to 0.2 is usual, None computes every step"
        )
