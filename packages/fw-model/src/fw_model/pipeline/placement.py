"""Placement of a pipeline's parts: all on the device, or each there only while it is used.

``none``: everything stays on the device. ``model``: text encoder, image encoder, autoencoder and transformer (of two
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
    """A text or image encoder, which loads its weights itself and can be moved."""

    def to(self, device: torch.device | str) -> Any:
        """Move the encoder to a device."""
        ...


class Placement:
    """Move parts to the device while they are used.

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
        """Device of the parts that are not in use."""
        return self.device if self.offload == "none" else HOME

    @contextmanager
    def encoder(self, encoder: Encoder, fixed: torch.device | None = None) -> Iterator[None]:
        """Keep a text or image encoder on the device inside the block; one on a fixed device is not moved."""
        if fixed is not None:
            yield
            return
        encoder.to(self.device)
        try:
            yield
        finally:
            encoder.to(self.home)

    def part(self, name: str, part: object) -> AbstractContextManager[None]:
        """Keep the autoencoder on the device inside the block."""
        if self.offload == "none" or not isinstance(part, nn.Module):
            return nullcontext()
        return self.offloader.using(name, part)

    def expert(self, world: FantasyWorld) -> AbstractContextManager[None]:
        """Keep a transformer on the device inside the block, whole or block by block."""
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
