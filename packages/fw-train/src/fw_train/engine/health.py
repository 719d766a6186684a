"""Two early signs of a collapsing model, logged with every training line.

    health/camera_tokens    difference between the camera tokens of latent frames after the last geometry layer: the
                            rms of their deviation from their mean over their own rms. It falls towards 0 when the
                            geometry branch stops telling frames apart; then all predicted poses are equal.
    health/adapter_active   share of active hidden units in the output network of the camera adapters, of the block
                            where it is smallest. Once all are inactive they stay so, and the camera no longer steers.

Axes: b batch, f latent frames, e feature width.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fw_model.geometry.camera_head import CameraHead
from fw_model.wan.camera_adapter import CameraAdapter

CAMERA_TOKENS, ADAPTER_ACTIVE = "health/camera_tokens", "health/adapter_active"
LEAST: Mapping[str, float] = {CAMERA_TOKENS: 0.02, ADAPTER_ACTIVE: 0.05}
"""Values below which a warning is printed."""
ADVICE: Mapping[str, str] = {
    CAMERA_TOKENS: "the geometry branch hardly tells frames apart; use a model with geometry.time_index, a lower "
    "optim.lr, or optim.betas with 0.999",
    ADAPTER_ACTIVE: "a camera adapter's hidden units are inactive, so the camera stops steering; use a lower optim.lr, "
    "or a model with camera.activation = gelu",
}


class HealthMonitor:
    """Measures both figures in every forward pass of a model, with hooks that change nothing."""

    def __init__(self, model: nn.Module) -> None:
        self._tokens: Tensor | None = None
        self._active: dict[int, Tensor] = {}
        for number, module in enumerate(model.modules()):
            if isinstance(module, CameraHead):
                module.register_forward_pre_hook(self._read_tokens)
            elif isinstance(module, CameraAdapter):
                module.to_shift[1].register_forward_hook(self._reader(number))

    def values(self) -> dict[str, Tensor]:
        """The figures of the passes since the last call, as scalars; parts that did not run have none."""
        found: dict[str, Tensor] = {}
        if self._tokens is not None:
            found[CAMERA_TOKENS] = self._tokens
        if self._active:
            found[ADAPTER_ACTIVE] = torch.stack(list(self._active.values())).min()
        self._tokens, self._active = None, {}
        return found

    def _read_tokens(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        # frame 0 has a separate token, so it always differs
        if args[0].shape[1] > 2:
            self._tokens = token_difference(args[0][:, 1:].detach().float())

    def _reader(self, number: int):
        def read(_module: nn.Module, _args: object, output: Tensor) -> None:
            self._active[number] = (output.detach() > 0).float().mean()

        return read


def token_difference(tokens: Float[Tensor, "b f e"]) -> Float[Tensor, ""]:
    """Rms deviation of tokens from their mean over frames, in units of their rms; mean over the batch."""
    deviation = (tokens - tokens.mean(1, keepdim=True)).square().mean((1, 2))
    return (deviation / tokens.square().mean((1, 2)).clamp_min(1e-12)).sqrt().mean()


def warnings(values: Mapping[str, float]) -> list[str]:
    """A warning for every figure that is too small."""
    return [
        f"warning: {name} is {values[name]:.3g}, below {least:g}: {ADVICE[name]}"
        for name, least in LEAST.items()
        if name in values and values[name] < least
    ]
