"""AdamW, the learning-rate schedule, and the moving average of weights, with all state as named tensors.

AdamW is implemented here because torch.optim imports the compiler (several seconds of every start); a test compares the
two. Each rank updates its shards of sharded parameters.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from fw_model.parallel.shards import local_part
from fw_model.wan.camera_adapter import CameraAdapter
from fw_train.config.schema import OptimConfig
from fw_train.engine.distributed import copy_into

Parameters = Mapping[str, nn.Parameter]
EPSILON = 1e-8
CHUNK = 1 << 26
"""Elements that are updated together; the update needs this much memory besides the state."""


class AdamW:
    """Loshchilov and Hutter 2019, algorithm 2; only `*.weight` of two or more axes (matrices, kernels) decays.

    A parameter without a gradient keeps its value, its moments and its count of steps.

    Args:
        parameters: name -> parameter.
        config: moment decays and weight decay.
        shares: parameter name -> its learning rate as a share of the common one; 1 for all others.
        offload: keep the moments in host memory; of parameters on a GPU only.
    """

    def __init__(
        self,
        parameters: Parameters,
        config: OptimConfig,
        shares: Mapping[str, float] | None = None,
        *,
        offload: bool = False,
    ) -> None:
        self.parameters, self.config, self._offload = parameters, config, offload
        self.shares = shares or {}
        self.first = {name: _moments(p, offload) for name, p in parameters.items()}
        self.second = {name: _moments(p, offload) for name, p in parameters.items()}
        self.steps = dict.fromkeys(parameters, 0)
        self._chunks = _chunks(parameters)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update all parameters once, at learning rate `rate`."""
        for names in self._chunks:
            self._update([name for name in names if self.parameters[name].grad is not None], rate)

    def _update(self, names: Sequence[str], rate: float) -> None:
        if not names:
            return
        beta1, beta2 = self.config.betas
        for name in names:
            self.steps[name] += 1
        rates = [rate * self.shares.get(name, 1.0) for name in names]
        weights = [local_part(self.parameters[name]) for name in names]
        gradients = [local_part(g) for name in names if (g := self.parameters[name].grad) is not None]
        stored = [[local_part(state[name]) for name in names] for state in (self.first, self.second)]
        first, second = stored
        if self._offload:
            first, second = ([m.to(w.device, copy=True) for m, w in zip(s, weights, strict=True)] for s in stored)
        torch._foreach_mul_(weights, [1 - r * self.decay(name) for r, name in zip(rates, names, strict=True)])
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        spread = torch._foreach_sqrt(second)
        torch._foreach_div_(spread, [math.sqrt(1 - beta2 ** self.steps[name]) for name in names])
        torch._foreach_add_(spread, EPSILON)
        updates = [-r / (1 - beta1 ** self.steps[name]) for r, name in zip(rates, names, strict=True)]
        torch._foreach_addcdiv_(weights, first, spread, updates)
        if self._offload:
            torch._foreach_copy_([*stored[0], *stored[1]], [*first, *second])

    def decay(self, name: str) -> float:
        """Weight decay of a parameter by name."""
        matrix = self.parameters[name].ndim >= 2 and name.endswith("weight")
        return self.config.weight_decay if matrix else 0.0

    def tensors(self) -> dict[str, Tensor]:
        """The state by name: whole tensors, or sharded ones where the parameters are."""
        state = {f"{name}/first": value for name, value in self.first.items()}
        state |= {f"{name}/second": value for name, value in self.second.items()}
        return state | {f"{name}/steps": torch.tensor(count) for name, count in self.steps.items()}

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        for name in self.parameters:
            copy_into(self.first[name], saved, f"{name}/first")
            copy_into(self.second[name], saved, f"{name}/second")
            self.steps[name] = int(saved[f"{name}/steps"])


def rate_shares(module: nn.Module, config: OptimConfig) -> dict[str, float]:
    """Parameters of the camera adapters -> `optim.camera_adapter_lr`; empty if it is 1."""
    if config.camera_adapter_lr == 1.0:
        return {}
    adapters = [name for name, part in module.named_modules() if isinstance(part, CameraAdapter)]
    inside = tuple(f"{name}." for name in adapters)
    return {name: config.camera_adapter_lr for name, _ in module.named_parameters() if name.startswith(inside)}


def _moments(parameter: nn.Parameter, offload: bool) -> Tensor:
    if not offload or parameter.device.type != "cuda":
        return torch.zeros_like(parameter)
    return torch.zeros(parameter.shape, dtype=parameter.dtype, pin_memory=True)


def _chunks(parameters: Parameters) -> list[list[str]]:
    """Names in groups of up to CHUNK elements."""
    groups: list[list[str]] = [[]]
    size = 0
    for name, parameter in parameters.items():
        size += parameter.numel()
        if size > CHUNK and groups[-1]:
            groups.append([])
            size = parameter.numel()
        groups[-1].append(name)
    return groups


def learning_rate(step: int, config: OptimConfig, steps: int) -> float:
    """Learning rate of the step after `step` steps: linear warm-up, then constant or a cosine to a tenth of it."""
    warm = min(1.0, (step + 1) / (config.warmup + 1))
    if config.schedule == "constant" or step < config.warmup:
        return config.lr * warm
    progress = (step - config.warmup) / max(1, steps - config.warmup)
    return config.lr * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress))))


class EMA:
    """Exponential moving average: `average <- d * average + (1 - d) * weights` after every step.

    d is `decay`, but after step n at most n / (n + 9), so that the average soon forgets the initial weights, even in a
    short run: with d = 0.998 from the first step, 45 % of them would remain after 400 steps.
    """

    def __init__(self, parameters: Parameters, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: Parameters, step: int) -> None:
        """Average in the weights after step `step`, counted from 1."""
        decay = min(self.decay, step / (step + 9))
        current = [local_part(parameters[name]) for name in self.weights]
        torch._foreach_lerp_([local_part(average) for average in self.weights.values()], current, 1 - decay)

    def load(self, saved: Mapping[str, Tensor]) -> None:
        """Restore an average from a checkpoint."""
        for name, average in self.weights.items():
            copy_into(average, saved, name)
