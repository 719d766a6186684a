"""Offloading: weights are on the accelerator only while they are used, as whole modules or block by block.

Weights are kept in host memory (pinned for CUDA). To use a module, its weights are copied to the device and replaced by
the copies; to release it, the originals are restored and the copies dropped. Nothing is copied back, so the originals
must not be changed while their module is in use.

A ``BlockOffloader`` records the resident modules, their bytes, the peak, and the latest moves. It works the same on any
device; a CPU "device" gets real copies, so everything can be tested anywhere.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Offload = Literal["none", "model", "block"]
LOG_LENGTH = 10_000
"""Number of latest moves that an offloader records."""


def check_offload(offload: str) -> None:
    """Raise ValueError, listing the valid names, for an unknown offload mode."""
    if offload not in get_args(Offload):
        raise ValueError(
            f"Unknown offload {offload!r}; choose from {', '.join(get_args(Offload))} (none: everything stays on the "
            "device; model: each large part is there while it is used; block: transformer blocks one at a time)."
        )


class Move(NamedTuple):
    """One entry of a offloader's log."""

    name: str
    direction: Literal["in", "out"]
    nbytes: int


class BlockOffloader:
    """Copies modules to a device and releases them again.

    Args:
        device: where modules are used.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.log: deque[Move] = deque(maxlen=LOG_LENGTH)
        self.resident_bytes = 0
        self.peak_bytes = 0
        self._resident: dict[nn.Module, _Stay] = {}
        cuda = self.device.type == "cuda"
        self._side = torch.cuda.Stream(self.device) if cuda else None

    @property
    def resident(self) -> list[str]:
        """Names of the modules that are on the device now."""
        return [stay.name for stay in self._resident.values()]

    @contextmanager
    def using(self, name: str, *modules: nn.Module) -> Iterator[None]:
        """Have modules on the device inside the ``with`` block."""
        brought = [module for module in modules if module not in self._resident]
        try:
            for module in brought:
                self.fetch(name, module)
            for module in modules:
                self.wait(module)
            yield
        finally:
            for module in brought:
                self.release(module)

    def fetch(self, name: str, module: nn.Module) -> None:
        """Start moving a module to the device (on CUDA in parallel to computation); ``wait`` before using it."""
        if module in self._resident:
            return
        homes = [(slot, slot.tensor()) for slot in _slots(module)]
        originals = {slot.key(): home for slot, home in homes}  # a parameter under two names is one
        stay = _Stay(name, homes, sum(home.nbytes for home in originals.values()))
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            copies = {key: home.to(self.device, non_blocking=True, copy=True) for key, home in originals.items()}
            for slot, _ in homes:
                slot.put(copies[slot.key()])
            stay.ready = None if self._side is None else self._side.record_event()
        self._resident[module] = stay
        self._count(stay, "in")

    def wait(self, module: nn.Module) -> None:
        """Wait until a fetched module can be used."""
        stay = self._resident[module]
        if stay.ready is not None:
            here = torch.cuda.current_stream(self.device)
            here.wait_event(stay.ready)
            for slot, _ in stay.homes:
                slot.tensor().record_stream(here)
            stay.ready = None

    def release(self, module: nn.Module) -> None:
        """Put the originals back and let the copies go."""
        stay = self._resident.pop(module, None)
        if stay is None:
            return
        for slot, home in stay.homes:
            slot.put(home)
        self._count(stay, "out")

    def pin(self, module: nn.Module) -> None:
        """Page-lock a module's home, so that copies run beside computation; without CUDA there is nothing to do."""
        if self.device.type != "cuda":
            return
        for slot in _slots(module):
            if not slot.tensor().is_pinned():
                slot.put(slot.tensor().pin_memory())

    def _count(self, stay: "_Stay", direction: Literal["in", "out"]) -> None:
        self.resident_bytes += stay.nbytes if direction == "in" else -stay.nbytes
        self.peak_bytes = max(self.peak_bytes, self.resident_bytes)
        self.log.append(Move(stay.name, direction, stay.nbytes))


class BlockStream:
    """Transformer blocks that pass through the device in turn, the next ones on their way while one computes.

    Args:
        offloader: brings them.
        blocks: in the order in which they run; after the last one comes the first one again.
        ahead: how many to fetch ahead; ``ahead + 1`` are resident at most.
    """

    def __init__(self, offloader: BlockOffloader, blocks: Sequence[nn.Module], *, ahead: int = 1) -> None:
        self.offloader, self.blocks, self.ahead = offloader, list(blocks), min(ahead, len(blocks) - 1)
        self._place = {block: i for i, block in enumerate(self.blocks)}
        for block in self.blocks:
            offloader.pin(block)

    @contextmanager
    def using(self, block: nn.Module) -> Iterator[None]:
        """Have a block on the device inside the ``with`` block."""
        place = self._place[block]
        wanted = [(place + i) % len(self.blocks) for i in range(self.ahead + 1)]
        for i, other in enumerate(self.blocks):
            if i not in wanted:
                self.offloader.release(other)
        self.offloader.fetch(f"block {place}", block)
        self.offloader.wait(block)
        for i in wanted[1:]:
            self.offloader.fetch(f"block {i}", self.blocks[i])
        try:
            yield
        finally:
            self.offloader.release(block)

    def clear(self) -> None:
        """Remove the modules that were fetched ahead."""
        for block in self.blocks:
            self.offloader.release(block)


class _Slot(NamedTuple):
    """Where a module keeps a tensor."""

    owner: nn.Module
    name: str
    parameter: bool

    def tensor(self) -> Tensor:
        return self.owner.get_parameter(self.name).data if self.parameter else self.owner.get_buffer(self.name)

    def key(self) -> tuple[int, str]:
        """Identity of a tensor: the parameter; for a buffer, which is replaced and not refilled, its location."""
        return (id(self.owner.get_parameter(self.name)), "") if self.parameter else (id(self.owner), self.name)

    def put(self, tensor: Tensor) -> None:
        if self.parameter:
            self.owner.get_parameter(self.name).data = tensor
        else:
            self.owner._buffers[self.name] = tensor


class _Stay:
    """A module on the device and its tensors in host memory."""

    def __init__(self, name: str, homes: list[tuple[_Slot, Tensor]], nbytes: int) -> None:
        self.name, self.homes, self.nbytes = name, homes, nbytes
        self.ready: Any = None  # a CUDA event


def _slots(module: nn.Module) -> list[_Slot]:
    slots: list[_Slot] = []
    for owner in module.modules():
        slots += [_Slot(owner, name, True) for name, value in owner._parameters.items() if value is not None]
        slots += [_Slot(owner, name, False) for name, value in owner._buffers.items() if value is not None]
    return slots
