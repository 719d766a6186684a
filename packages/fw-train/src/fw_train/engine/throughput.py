"""What steps measured, averaged between two log lines, and how fast they were: samples, tokens, FLOP/s and MFU."""

import resource
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from fw_train.config.schema import TrainConfig
from fw_train.engine.distributed import Context, half_precision

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "B200": 2250.0,
    "A100": 312.0,
    "A800": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense bfloat16 peak by a part of the GPU's name (vendors' data sheets); the first that fits counts."""


class Step(NamedTuple):
    """What one optimizer step measured; tensors stay on the device until they are logged."""

    terms: Mapping[str, Tensor]
    gradient_norm: Tensor
    learning_rate: float
    seconds: float


class Meter:
    """Averages steps between two log lines, and says how fast they were.

    FLOPs are counted once, in the first step, by torch's own formulas: matrix products, convolutions and torch's
    attention, forward and backward, without what activation checkpointing runs again. Attention kernels of other
    packages are not seen.

    Args:
        config: the run.
        ctx: which process this is.
    """

    def __init__(self, config: TrainConfig, ctx: Context) -> None:
        self.ctx, self.samples = ctx, config.batch
        clip = config.clip
        self.tokens = config.batch * (clip.frames // 4 + 1) * (clip.height // 16) * (clip.width // 16)
        self.flops = 0
        """Of one optimizer step of this process; 0 before the first."""
        self._dtype = torch.bfloat16 if half_precision(config.compute.precision, ctx.device) else torch.float32
        self._peak = 0.0
        self._steps: list[Step] = []

    def counting(self) -> AbstractContextManager[object]:
        """Around a step: counts its FLOPs if that was not done yet."""
        return nullcontext() if self.flops else FlopCount(self)

    def add(self, step: Step) -> None:
        """Take in one step."""
        self._steps.append(step)

    def drain(self) -> dict[str, float]:
        """Means since the last call; rates over all processes (TFLOP/s and MFU: of one), memory in GiB (peak)."""
        steps = self._steps
        rate = len(steps) / sum(step.seconds for step in steps)
        names = list(dict.fromkeys(name for step in steps for name in step.terms))
        means = torch.stack([torch.stack([s.terms[n] for s in steps if n in s.terms]).mean() for n in names])
        row = dict(zip(names, self.ctx.mean(means.float()).tolist(), strict=True))
        self._peak = self._peak or peak_flops(self.ctx.device, self._dtype)
        self._steps = []
        return row | {
            "gradient_norm": float(torch.stack([step.gradient_norm for step in steps]).mean()),
            "learning_rate": steps[-1].learning_rate,
            "samples_per_s": self.samples * rate,
            "latent_tokens_per_s": self.tokens * rate,
            "tflops_per_s": self.flops * rate / 1e12,
            "mfu": self.flops * rate / self._peak,
            "memory_gib": memory_gib(self.ctx.device),
        }


class FlopCount(TorchDispatchMode):
    """Adds the FLOPs of every operation while it is active to a meter's; changes no result."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping it would import the whole compiler, several seconds of every start

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self.meter = meter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # in the backward pass, what runs with gradients on is run again
        again = torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
        formula = None if again else _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.meter.flops += formula(*args, **(kwargs or {}), out_val=out)
        return out


def uncounted() -> AbstractContextManager[object]:
    """Around work that is not the network's, such as the frozen encoders': a count under way does not see it."""
    return _disable_current_modes()


def _attend_cpu(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attend_cpu_backward(gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, query.shape, key.shape, value.shape)


_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attend_cpu,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attend_cpu_backward,
}


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s that the device could do at best: the data sheet's for bfloat16, or else a matrix product timed here."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, tflops in PEAK_TFLOPS.items():
            if part in name:
                return tflops * 1e12
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, dtype=dtype, device=device)
    seconds = []
    for _ in range(4):
        begin = time.perf_counter()
        (a @ a).sum().item()  # waits for the device
        seconds.append(time.perf_counter() - begin)
    return 2 * size**3 / min(seconds)


def memory_gib(device: torch.device) -> float:
    """Most memory that this process has held: of its GPU, or of the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
