"""The machine that each recipe is for, the default of `fw-train plan`."""

from dataclasses import dataclass

from fw_train.config.schema import Stage


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A number of equal GPUs."""

    gpu: str
    """Name of the GPU."""
    gpus: int = 1
    """Number of GPUs, with one process each."""
    memory_gib: float
    """Memory of one GPU in GiB."""
    peak_tflops: float
    """Dense bfloat16 products with float32 sums, by the data sheet, 10^12 FLOP/s."""


_H100 = {"gpu": "H100 SXM", "memory_gib": 80.0, "peak_tflops": 989.0}
_H20 = {"gpu": "H20", "memory_gib": 96.0, "peak_tflops": 148.0}
_RTX4090 = {"gpu": "RTX 4090", "memory_gib": 24.0, "peak_tflops": 165.0}


def machine(recipe: str, stage: Stage) -> Machine:
    """The machine of a recipe; one H100 for recipes without a specific GPU."""
    if recipe == "paper":
        return Machine(**_H20, gpus=112 if stage == "stage2" else 64)
    if recipe == "one-gpu-24gb":
        return Machine(**_RTX4090)
    return Machine(**_H100, gpus=8 if recipe == "8-gpu" else 1)
