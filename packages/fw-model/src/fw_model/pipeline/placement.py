"""Where a pipeline's parts are while it works: all on the device, or each there only while it is used.

``none``: everything stays on the device. ``model``: text encoder, picture encoder, autoencoder and transformer (of two
experts the one at work) come and go as wholes. ``block``: so do they, but the transformer's blocks pass one at a time.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from fw_model.layers.offload import BlockOffloader, Offload, check_offload
from fw_model.model.model import FantasyWorld

HOME = torch.device("cpu")


@runtime_checkable
class Encoder(Protocol):
    """A text or picture encoder: it loads its weights itself, and says where it computes."""

    def to(self, device: torch.device | str) -> Any:
        """Move it."""
        ...


class Placement:
    """Brings parts to the device for as long as they are used.

    Args:
        offload: "none", "model" or "block".
        device: where everything is computed.
        ahead: with "block", how many blocks are fetched ahead of the one that runs.
    """

    def __init__(self, offload: Offload, device: torch.device | str, *, ahead: int = 1) -> None:
        check_offload(offload)
        self.offload: Offload = offload
        self.device = torch.device(device)
        self.offloader = BlockOffloader(self.device)
        self.ahead = ahead

    @property
    def home(self) -> torch.device:
        """Where parts are that are not in use."""
        return self.device if self.offload == "none" else HOME

    @contextmanager
    def encoder(self, encoder: Encoder) -> Iterator[None]:
        """Have a text or picture encoder at hand."""
        encoder.to(self.device)
        try:
            yield
        finally:
            encoder.to(self.home)

    def part(self, name: str, part: object) -> AbstractContextManager[None]:
        """Have the autoencoder at hand."""
        if self.offload == "none" or not isinstance(part, nn.Module):
            return nullcontext()
        return self.offloader.using(name, part)

    def expert(self, world: FantasyWorld) -> AbstractContextManager[None]:
        """Have a transformer at hand, whole or block by block."""
        name = f"transformer {world.config.name}"
        if self.offload == "none":
            return nullcontext()
        return self.offloader.using(name, world) if self.offload == "model" else self._streamed(name, world)

    @contextmanager
    def _streamed(self, name: str, world: FantasyWorld) -> Iterator[None]:
        with self.offloader.using(name, *world.non_block_modules()):
            world.stream_blocks(self.offloader, ahead=self.ahead)
            try:
                yield
            finally:
                world.stream_blocks(None)
