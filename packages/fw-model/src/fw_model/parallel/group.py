"""Processes that generate one world together: two halves for the branches of guidance, tokens divided in each half.

The first process leads: it takes requests, encodes inputs, and decodes and returns the world. The others follow, step
by step, so that the leader may stop between two steps. Without guidance all processes divide the tokens.
"""

import atexit
from collections.abc import Generator, Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from fw_model.parallel.sequence import SequenceGroup

PATIENCE = timedelta(days=365)
"""Limit of waiting for the leader's next request."""
T = TypeVar("T")


class GuidancePair(NamedTuple):
    """Two processes, of which the first computes the pass with the prompt and the second that with the negative one."""

    branch: int
    """0: with the prompt; 1: with the negative prompt."""
    process_group: Any

    def both(self, velocity: Float[Tensor, "*s"]) -> tuple[Float[Tensor, "*s"], Float[Tensor, "*s"]]:
        """Both processes' velocities, the one with the prompt first."""
        made = [torch.empty_like(velocity, memory_format=torch.contiguous_format) for _ in range(2)]
        dist.all_gather(made, velocity.contiguous(), group=self.process_group)
        return made[0], made[1]


class WorldGroup:
    """This process's place among those that generate one world.

    A launcher (torchrun) has started the processes, or they have called `join`; all of them make this object at the
    same point. They form groups of `size`, each of which generates worlds of its own.

    Args:
        size: processes per world; None: all.
        device: "cuda" or "cpu", the kind of device that computes.

    Raises:
        ValueError: the number of processes is not a multiple of `size`.
    """

    def __init__(self, size: int | None = None, *, device: torch.device | str = "cpu") -> None:
        join(device)
        everyone = dist.get_world_size()
        self.size = everyone if size is None else size
        if self.size < 1 or everyone % self.size:
            raise ValueError(f"{everyone} processes cannot form groups of {self.size}; use a divisor of {everyone}")
        self.index, self.rank = divmod(dist.get_rank(), self.size)
        worlds = [range(start, start + self.size) for start in range(0, everyone, self.size)]
        self._control = _mine(worlds, backend="gloo", timeout=PATIENCE)
        self._whole = _mine(worlds)
        self._half: Any = None
        self.guidance: GuidancePair | None = None
        if self.size % 2 == 0:
            half = self.size // 2
            self._half = _mine([part for ranks in worlds for part in (ranks[:half], ranks[half:])])
            pair = _mine([(ranks[i], ranks[i + half]) for ranks in worlds for i in range(half)])
            self.guidance = GuidancePair(self.rank // half, pair)
        self.broken = False
        self._closed = False
        atexit.register(self._leave)

    @property
    def is_leader(self) -> bool:
        """Whether this process takes the requests of its group."""
        return self.rank == 0

    def divided(self, guided: bool) -> tuple[SequenceGroup, GuidancePair | None]:
        """The processes that divide the tokens with this one, and its partner in guided passes."""
        if guided and self.guidance is not None:
            half = self.size // 2
            return SequenceGroup(size=half, rank=self.rank % half, process_group=self._half), self.guidance
        return SequenceGroup(size=self.size, rank=self.rank, process_group=self._whole), None

    def tell(self, message: object) -> None:
        """Send a picklable object to the followers, who must `hear` it."""
        if self.broken or self._closed:
            state = "are out of sync after an error" if self.broken else "were closed"
            raise RuntimeError(f"the processes of this group {state}; start the program again")
        self._broadcast([message])

    def hear(self) -> Any:
        """The next message of the leader."""
        box: list[Any] = [None]
        self._broadcast(box)
        return box[0]

    def _broadcast(self, box: list[Any]) -> None:
        try:
            dist.broadcast_object_list(box, group=self._control, group_src=0)
        except BaseException:  # another process has ended
            self.broken = True
            raise

    def lead(self, steps: Iterator[T]) -> Generator[T, None, None]:
        """Steps that the followers take at the same time; closing this between two steps ends theirs too."""
        try:
            while True:
                self.tell(True)
                try:
                    step = next(steps, None)
                except FloatingPointError:  # of latents, which are the same on every process
                    raise
                except BaseException:
                    self.broken = True
                    raise
                if step is None:
                    return
                yield step
        finally:
            if not self.broken:
                self.tell(False)

    def follow(self, steps: Iterator[object]) -> None:
        """Take steps as long as the leader does."""
        while self.hear():
            try:
                next(steps, None)
            except FloatingPointError:  # the leader has it too, and reports it
                continue
            except BaseException:
                self.broken = True
                raise

    def close(self) -> None:
        """End the followers' work; on the leader, also called when the program ends."""
        if self.is_leader and not self._closed and not self.broken and dist.is_initialized():
            self.tell(None)
        self._closed = True

    def _leave(self) -> None:
        """At the end of the program: threads of gloo that outlive it abort the process now and then."""
        self.close()
        if dist.is_initialized() and not self.broken:  # destroying can wait forever for processes out of step
            dist.destroy_process_group()


def join(device: torch.device | str, **place: Any) -> None:
    """Join the other processes, once.

    Args:
        device: "cuda" or "cpu", the kind of device that computes.
        place: `init_method`, `rank` and `world_size` of `init_process_group`; none under a launcher, which names them
            in the environment.
    """
    if not dist.is_initialized():
        gpu = torch.device(device).type == "cuda"
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpu else "gloo", **place)


def _mine(groups: Sequence[Sequence[int]], **options: Any) -> Any:
    """The torch group that this process is in; every process makes all of them, in the same order."""
    made = [(ranks, dist.new_group(list(ranks), **options)) for ranks in groups]
    return next(group for ranks, group in made if dist.get_rank() in ranks)
