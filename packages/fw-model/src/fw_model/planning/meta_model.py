"""Emulate features that the meta device lacks: fused attention, autocast, boolean indexing."""

from typing import Any, no_type_check

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fw_model.layers.float32 import ExactModule

_ATTEND = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""Saves the same tensors for backward as every fused kernel: inputs, output and one number per row."""
_LOWERED = {F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose2d, F.scaled_dot_product_attention}
_LOWERED |= {torch.matmul, torch.bmm, torch.einsum, Tensor.matmul, Tensor.__matmul__}
"""Functions of the model that autocast runs in bfloat16."""
_RAISED = {F.layer_norm, F.group_norm, F.interpolate}
"""Functions that autocast runs in float32 on a GPU (on the CPU they keep the type of their input)."""


@no_type_check
class MetaDeviceMode(TorchFunctionMode):
    """Make the meta device behave like the device of a run.

    Args:
        root: the network.
        device: "cuda" or "cpu", for its autocast rules.
        half: whether the run uses bfloat16 autocast.
    """

    def __init__(self, root: nn.Module, *, device: str, half: bool) -> None:
        super().__init__()
        self.half, self.on_gpu = half, device == "cuda"
        self._exact = 0
        self._keeping = True
        self._casts: dict[int, Tensor] = {}
        for module in root.modules():
            if isinstance(module, ExactModule):
                module.register_forward_pre_hook(lambda _m, _a: self._count(1))
                module.register_forward_hook(lambda _m, _a, _o: self._count(-1), always_call=True)

    def leave_autocast(self) -> None:
        """End the forward pass: drop the bfloat16 copies of trained weights, and stop caching them.

        Recomputed blocks enter autocast again, but each leaves it at its own end.
        """
        self._keeping = False
        self._casts.clear()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        options: dict[str, Any] = kwargs or {}
        if self.half and not self._exact:
            if func in _LOWERED:
                args, options = self._cast(args, torch.bfloat16), self._cast(options, torch.bfloat16)
            elif func in _RAISED and self.on_gpu:
                args, options = self._cast(args, torch.float32), self._cast(options, torch.float32)
            elif func is F.normalize and self.on_gpu:  # its norm is in float32, and so is its quotient
                length = torch.linalg.vector_norm(args[0], dim=options["dim"], keepdim=True, dtype=torch.float32)
                return args[0] / length.clamp_min(1e-12).expand_as(args[0])
        if func is F.scaled_dot_product_attention:
            return _ATTEND(*args, **options)[0]
        if func is Tensor.__getitem__ and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            return args[0].flatten().clone()  # as if all entries were selected
        return func(*args, **options)

    def _cast(self, values: Any, dtype: torch.dtype) -> Any:
        if isinstance(values, Tensor):
            if not values.is_floating_point() or values.dtype == dtype:
                return values
            if not (values.is_leaf and values.requires_grad and dtype == torch.bfloat16):
                return values.to(dtype)
            cast = self._casts.get(id(values))
            if cast is None:
                cast = values.to(dtype)
                if self._keeping:
                    self._casts[id(values)] = cast
            return cast
        if isinstance(values, dict):
            return {key: self._cast(value, dtype) for key, value in values.items()}
        if isinstance(values, tuple | list):
            return type(values)(self._cast(value, dtype) for value in values)
        return values

    def _count(self, change: int) -> None:
        self._exact += change
