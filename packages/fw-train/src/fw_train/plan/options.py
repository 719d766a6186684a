"""The flags of `fw-train plan` besides those of the run: the machine to plan for. Imports no torch."""

from dataclasses import dataclass

from fw_train.config.recipes.machines import Machine
from fw_train.config.schema import ConfigError

MFU = 0.35
"""Share of the peak that is assumed unless one is given."""


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Estimate parameters, FLOPs, memory and time of a run. Takes the flags of `fw-train STAGE CONFIG` too."""

    gpus: int | None = None
    """GPUs, one process each (default: that of the recipe's machine)."""
    memory_gib: float | None = None
    """Memory of one GPU in GiB (default: that of the recipe's machine)."""
    peak_tflops: float | None = None
    """Peak of one GPU in 10^12 FLOP/s, dense bfloat16 (default: that of the recipe's machine)."""
    mfu: float = MFU
    """Share of that peak that the run reaches, not counting recomputation: an assumption until you have measured it."""
    samples_per_s: float | None = None
    """A measured rate over all GPUs, in place of peak and share."""
    json: bool = False
    """Print JSON."""

    def machine(self, usual: Machine) -> Machine:
        """The machine to plan for; figures that are not given are those of `usual`.

        Raises:
            ConfigError: a figure that is not above 0.
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
