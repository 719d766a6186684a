"""Measurements of training steps, averaged between two log lines: loss terms, samples, tokens, FLOP/s and MFU."""

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
"""Dense bfloat16 peak by a part of the GPU's name (vendors' data sheets); the first match counts."""


class Step(NamedTuple):
    """Measurements of one optimizer step; tensors stay on the device until they are logged."""

    terms: Mapping[str, Tensor]
    gradient_norm: Tensor
    learning_rate: float
    seconds: float


class Meter:
    """Averages steps between two log lines and measures their speed.

    FLOPs are counted once for each number of tokens per step, by torch's formulas: matrix products, convolutions and
    torch's attention, forward and backward, without the recomputation of activation checkpointing. Attention kernels of
    other packages are not counted.

    Args:
        config: the run.
        ctx: this process.
    """

    def __init__(self, config: TrainConfig, ctx: Context) -> None:
        self.ctx, self.samples = ctx, config.batch
        self.flops: dict[int, int] = {}
        """FLOPs of one optimizer step of this process, by its number of video tokens."""
        self._dtype = torch.bfloat16 if half_precision(config.compute.precision, ctx.device) else torch.float32
        self._peak = 0.0
        self._steps: list[tuple[Step, int]] = []

    def counting(self, tokens: int) -> AbstractContextManager[object]:
        """Context of a step of so many tokens, in which its FLOPs are counted if they are not known yet."""
        return nullcontext() if tokens in self.flops else FlopCount(self.flops, tokens)

    def add(self, step: Step, tokens: int) -> None:
        """Add one step of so many video tokens in this process."""
        self._steps.append((step, tokens))

    def drain(self) -> dict[str, float]:
        """Means since the last call; rates over all processes (TFLOP/s and MFU: of one), memory in GiB (peak)."""
        steps = [step for step, _ in self._steps]
        seconds = sum(step.seconds for step in steps)
        tokens = sum(count for _, count in self._steps) * self.ctx.data_size
        flops = sum(self.flops[count] for _, count in self._steps)
        names = list(dict.fromkeys(name for step in steps for name in step.terms))
        means = torch.stack([torch.stack([s.terms[n] for s in steps if n in s.terms]).mean() for n in names])
        row = dict(zip(names, self.ctx.mean(means.float()).tolist(), strict=True))
        self._peak = self._peak or peak_flops(self.ctx.device, self._dtype)
        self._steps = []
        return row | {
            "gradient_norm": float(torch.stack([step.gradient_norm for step in steps]).mean()),
            "learning_rate": steps[-1].learning_rate,
            "samples_per_s": self.samples * len(steps) / seconds,
            "latent_tokens_per_s": tokens / seconds,
            "tflops_per_s": flops / seconds / 1e12,
            "mfu": flops / seconds / self._peak,
            "memory_gib": memory_gib(self.ctx.device),
        }


class FlopCount(TorchDispatchMode):
    """Counts the FLOPs of all operations while it is active; changes no result.

    Args:
        flops: table to enter the sum into.
        tokens: key of the entry.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # skipping it would import the compiler, several seconds of every start

    def __init__(self, flops: dict[int, int], tokens: int) -> None:
        super().__init__()
        self.flops, self.tokens = flops, tokens
        flops[tokens] = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        # operations with gradients enabled during the backward pass are recomputation
        again = torch._C._current_graph_task_id() != -1 and torch.is_grad_enabled()
        formula = None if again else _FORMULAS.get(func.overloadpacket)
        if formula is not None:
            self.flops[self.tokens] += formula(*args, **(kwargs or {}), out_val=out)
        return out


def uncounted() -> AbstractContextManager[object]:
    """Context of work outside of the network, such as the frozen encoders, that FLOP counts leave out."""
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
    """Peak FLOP/s of a device: from the data sheet for bfloat16 on a GPU, else of a matrix product timed here."""
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
    """Peak memory of this process in GiB: on its GPU, or on the host."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
