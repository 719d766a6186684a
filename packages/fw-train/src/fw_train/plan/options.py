"""The flags of `fw-train plan`: those of the run, and for which machine to plan. Imports no torch."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from fw_train.config.recipes.machines import Machine
from fw_train.config.schema import ConfigError, TrainConfig

MFU = 0.35
"""Share of the peak that is assumed unless one is given."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """For which machine to plan; all flags of the run work too."""

    run: Annotated[TrainConfig, arg(name="")]
    gpus: int | None = None
    """GPUs, one process each (default: what the recipe is for)."""
    memory_gib: float | None = None
    """Memory of one GPU in GiB (default: what the recipe is for)."""
    peak_tflops: float | None = None
    """Peak of one GPU in 10^12 FLOP/s, dense bfloat16 (default: what the recipe is for)."""
    mfu: float = MFU
    """Share of that peak that the run reaches, not counting recomputation: an assumption until you have measured it."""
    samples_per_s: float | None = None
    """A measured rate over all GPUs, in place of peak and share."""
    json: bool = False
    """Print JSON."""

    def machine(self, usual: Machine) -> Machine:
        """The machine that is asked for, where nothing is asked the usual one.

        Raises:
            ConfigError: a figure that no machine has.
        """
        for name in ("gpus", "memory_gib", "peak_tflops", "mfu", "samples_per_s"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ConfigError(f"--{name.replace('_', '-')} {value} must be above 0")
        own = self.memory_gib is not None or self.peak_tflops is not None
        return Machine(
            gpu="GPU" if own else usual.gpu,
            gpus=self.gpus or usual.gpus,
            memory_gib=self.memory_gib or usual.memory_gib,
            peak_tflops=self.peak_tflops or usual.peak_tflops,
        )
