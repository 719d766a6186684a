"""Offloading: weights are on the accelerator only while they are used, as whole modules or block by block.

Weights are kept in host memory. To use a module, its weights are copied to the device and replaced by the copies; to
release it, the originals are restored and the copies dropped. Nothing is copied back, so the originals must not be
changed while their module is in use. In training (`BlockOffloader(frozen_only=True)`) only frozen weights move.

For CUDA, the weights of a streamed block move into one host buffer, page-locked in place and copied as a whole.
(torch's `pin_memory` rounds every tensor up to a power of two: 48.5 GiB instead of 32.8 for the 14B blocks.)

A ``BlockOffloader`` records the resident modules, their bytes, the peak, and the latest moves. It works the same on any
device; a CPU "device" gets real copies, so everything can be tested anywhere.
"""

import logging
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, NamedTuple, get_args
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor, nn

Offload = Literal["none", "model", "block"]
_ALIGNMENT = 256
"""Bytes; starts of tensors in a host buffer are multiples of it."""
_LOG = logging.getLogger(__name__)
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
    """One entry of an offloader's log."""

    name: str
    direction: Literal["in", "out"]
    nbytes: int


class BlockOffloader:
    """Copies modules to a device and releases them again.

    Args:
        device: where modules are used.
        frozen_only: move only parameters without requires_grad; trained parameters and buffers are on the device.
    """

    def __init__(self, device: torch.device | str, *, frozen_only: bool = False) -> None:
        self.device, self.frozen_only = torch.device(device), frozen_only
        self.log: deque[Move] = deque(maxlen=LOG_LENGTH)
        self.resident_bytes = 0
        self.peak_bytes = 0
        self._resident: dict[nn.Module, _Stay] = {}
        cuda = self.device.type == "cuda"
        self._side = torch.cuda.Stream(self.device) if cuda else None
        self._released: deque[Any] = deque()  # CUDA events: computation with a released module has ended

    @property
    def resident(self) -> list[str]:
        """Names of the modules that are on the device now."""
        return [stay.name for stay in self._resident.values()]

    @contextmanager
    def using(self, name: str, *modules: nn.Module) -> Iterator[None]:
        """Keep modules on the device inside the ``with`` block."""
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
        homes = [(slot, slot.tensor()) for slot in _slots(module, self.frozen_only)]
        originals = {slot.key(): home for slot, home in homes}  # a parameter under two names is one
        stay = _Stay(name, homes, sum(home.nbytes for home in originals.values()))
        with nullcontext() if self._side is None else torch.cuda.stream(self._side):
            buffer = _BUFFERS.get(module)
            if buffer is not None and buffer.holds(originals):
                copies = buffer.copies(originals, self.device)
            else:
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
        self.mark()
        self._count(stay, "out")

    def mark(self) -> None:
        """Let `settle` wait for all computation that is queued now."""
        if self._side is not None:
            self._released.append(torch.cuda.current_stream(self.device).record_event())

    def settle(self) -> None:
        """Wait until computation with all released modules has ended, so that their memory can be used again."""
        while self._released:
            self._released.popleft().synchronize()

    def pin(self, module: nn.Module) -> None:
        """Move a module's weights into one page-locked host buffer; nothing happens without CUDA."""
        if self.device.type == "cuda":
            flatten(module, self.frozen_only)

    def _count(self, stay: "_Stay", direction: Literal["in", "out"]) -> None:
        self.resident_bytes += stay.nbytes if direction == "in" else -stay.nbytes
        self.peak_bytes = max(self.peak_bytes, self.resident_bytes)
        self.log.append(Move(stay.name, direction, stay.nbytes))


class BlockStream:
    """Transformer blocks that are on the device in turn; the next ones are copied while one computes.

    In training (an offloader with `frozen_only`) the forward pass runs from the first block to the last, and the
    backward pass recomputes them from the last to the first; nothing is fetched ahead at the turns. Autograd keeps the
    copies of a recomputed block until its gradients are computed, which is before the next block is recomputed.

    Args:
        offloader: brings them.
        blocks: in the order in which they run; in inference, after the last one comes the first one again.
        ahead: number of blocks to fetch in advance. At most ``ahead + 1`` are on the device: the next copy starts when
            the block before the current one has finished there, and the current one is queued.
    """

    def __init__(self, offloader: BlockOffloader, blocks: Sequence[nn.Module], *, ahead: int = 1) -> None:
        self.offloader, self.blocks, self.ahead = offloader, list(blocks), min(ahead, len(blocks) - 1)
        self._place = {block: i for i, block in enumerate(self.blocks)}
        for block in self.blocks:
            offloader.pin(block)

    def __contains__(self, block: nn.Module) -> bool:
        return block in self._place

    @contextmanager
    def using(self, block: nn.Module, *, backward: bool = False) -> Iterator[None]:
        """Keep a block on the device inside the ``with`` block, and fetch the next ones after it.

        Args:
            block: one of the blocks.
            backward: the block is recomputed in the backward pass, which goes from the last block to the first.
        """
        place = self._place[block]
        wanted = self._wanted(place, -1 if backward else 1)
        for i, other in enumerate(self.blocks):
            if i not in wanted:
                self.offloader.release(other)
        self.offloader.fetch(f"block {place}", block)
        self.offloader.wait(block)
        if backward:  # the gradients of the block before, whose copies autograd held until now, are queued
            self.offloader.mark()
        try:
            yield
            if not backward:
                self._fetch(wanted[1:])
        finally:
            if backward:  # torch ends a recomputation by an exception
                self._fetch(wanted[1:])
            self.offloader.release(block)

    def passes(self, block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """Contexts that keep a block on the device in the forward pass and in its recomputation, for `recomputed`.

        Raises:
            ValueError: the stream is for inference.
        """
        if not self.offloader.frozen_only:
            raise ValueError(
                "Blocks whose trained weights are streamed get no gradients: stream frozen weights only "
                "(BlockOffloader(frozen_only=True)), or use torch.no_grad()."
            )
        return self.using(block), self.using(block, backward=True)

    def clear(self) -> None:
        """Remove the modules that were fetched ahead."""
        for block in self.blocks:
            self.offloader.release(block)

    def _wanted(self, place: int, step: Literal[1, -1]) -> list[int]:
        """Places of the block that runs and of those to fetch after it."""
        places = [place + step * i for i in range(self.ahead + 1)]
        if self.offloader.frozen_only:
            return [i for i in places if 0 <= i < len(self.blocks)]
        return [i % len(self.blocks) for i in places]

    def _fetch(self, places: Sequence[int]) -> None:
        self.offloader.settle()
        for i in places:
            self.offloader.fetch(f"block {i}", self.blocks[i])


class _HostBuffer:
    """All tensors of a module in one host buffer."""

    def __init__(self, memory: Tensor, offsets: dict[tuple[int, str], int]) -> None:
        self.memory, self.offsets = memory, offsets

    def holds(self, tensors: Mapping[tuple[int, str], Tensor]) -> bool:
        """Whether the buffer holds these tensors, at their places."""
        start = self.memory.data_ptr()
        return {key: tensor.data_ptr() - start for key, tensor in tensors.items()} == self.offsets

    def copies(self, tensors: Mapping[tuple[int, str], Tensor], device: torch.device) -> dict[tuple[int, str], Tensor]:
        """The tensors on a device, by one copy of the whole buffer."""
        memory = self.memory.to(device, non_blocking=True, copy=True)
        return {key: _view(memory, self.offsets[key], tensor) for key, tensor in tensors.items()}


_BUFFERS: "WeakKeyDictionary[nn.Module, _HostBuffer]" = WeakKeyDictionary()


def flatten(module: nn.Module, frozen_only: bool = False) -> int:
    """Move the tensors of a module into one page-locked buffer of exactly their size; return its bytes."""
    slots = _slots(module, frozen_only)
    tensors = {slot.key(): slot.tensor() for slot in slots}
    known = _BUFFERS.get(module)
    if known is not None and known.holds(tensors):
        return known.memory.nbytes
    offsets: dict[tuple[int, str], int] = {}
    size = 0
    for key, tensor in tensors.items():
        offsets[key] = size
        size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    memory = torch.empty(size, dtype=torch.uint8)
    views = {key: _view(memory, offsets[key], tensor).copy_(tensor) for key, tensor in tensors.items()}
    for slot in slots:
        slot.put(views[slot.key()])
    _page_lock(memory, module)
    _BUFFERS[module] = _HostBuffer(memory, offsets)
    return size


def _view(memory: Tensor, offset: int, like: Tensor) -> Tensor:
    return memory[offset : offset + like.nbytes].view(like.dtype).view(like.shape)


def _page_lock(memory: Tensor, owner: nn.Module) -> None:
    """Page-lock a buffer in place until its owner is gone; without success, copies wait for each other."""
    runtime = torch.cuda.cudart()
    if runtime is None:
        return
    status = runtime.cudaHostRegister(memory.data_ptr(), memory.nbytes, 0)
    if int(status) != 0:
        _LOG.warning("host memory was not page-locked (CUDA error %s); copies of blocks are slower", int(status))
        return
    finalize(owner, lambda: runtime.cudaHostUnregister(memory.data_ptr()))  # keeps the buffer until then


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


def _slots(module: nn.Module, frozen_only: bool) -> list[_Slot]:
    slots: list[_Slot] = []
    for owner in module.modules():
        parameters = [(name, value) for name, value in owner._parameters.items() if value is not None]
        slots += [_Slot(owner, name, True) for name, p in parameters if not (frozen_only and p.requires_grad)]
        if not frozen_only:
            slots += [_Slot(owner, name, False) for name, value in owner._buffers.items() if value is not None]
    return slots
