"""The training loop, the same for every stage: draw, backward, check, step, log, validate, save.

It knows a `Task` (what the loss is) and a `Context` (which process this is), nothing of models or datasets. All
randomness comes from (seed, step, slot), so a run killed at any instant and resumed ends in the same bits.
"""

import json
import math
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fw_data.sampler import Draw, Sampler
from fw_train.checkpoint import CheckpointError, Snapshot, read
from fw_train.config import TrainConfig
from fw_train.journal import Journal
from fw_train.optim import AdamW, Average, learning_rate
from fw_train.parallel import Context
from fw_train.stop import Stop


@runtime_checkable
class Task(Protocol):
    """What is trained, on what, towards what."""

    @property
    def module(self) -> nn.Module:
        """The network; its parameters with requires_grad are what trains."""
        ...

    @property
    def clips(self) -> int:
        """Number of training clips that draws index."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Hashes of what must not change between a checkpoint and its resume (config, dataset, frozen weights)."""
        ...

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        """Scalars averaged over the draws; `loss` is differentiable, the others are for the log."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Measurements on held-out clips, the same draw every time; has `loss`."""
        ...

    def describe(self, draw: Draw) -> str:
        """The clip behind a draw, for error reports."""
        ...


class TrainingDivergedError(RuntimeError):
    """Loss or gradient is not finite; the optimizer step was not taken."""


class Result(NamedTuple):
    """How a run ended."""

    status: Literal["finished", "interrupted"]
    step: int
    """Optimizer steps done."""
    checkpoint: Path
    """The last checkpoint."""
    signal: int = 0
    """The signal that interrupted it."""


def run(config: TrainConfig, task: Task, ctx: Context, *, out: Path, quiet: bool = False) -> Result:
    """Train from the newest whole checkpoint of `ctx.store` (or from the start) to `config.steps`.

    Raises:
        TrainingDivergedError: loss or gradient became NaN or infinite; `out/diverged.json` has the batch.
        CheckpointError: the checkpoint belongs to another run, or cannot be written.
    """
    trainer = Trainer(config, task, ctx, out)
    notes = trainer.restore()
    silent = quiet or not ctx.leads
    where = out if ctx.leads else out / f"rank-{ctx.rank}"
    with Journal(where, steps=config.steps, step=trainer.step, quiet=silent) as journal, Stop() as stop:
        for note in notes:
            journal.say(note)
        try:
            return trainer.train(journal, stop)
        except TrainingDivergedError:
            journal.event(trainer.step, "diverged")
            raise


class Trainer:
    """State of a run: network, optimizer, running average, step."""

    def __init__(self, config: TrainConfig, task: Task, ctx: Context, out: Path) -> None:
        self.config, self.task, self.ctx, self.out = config, task, ctx, out
        self.step = 0
        self.trained = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        if not self.trained:
            raise ValueError("nothing to train: no parameter of the network requires a gradient")
        self.optimizer = AdamW(self.trained, config.optim)
        self.average = Average(self.trained, config.optim.ema) if config.optim.ema else None
        self.sampler = Sampler(clips=task.clips, batch=config.batch, seed=config.seed)
        self.sampler.step(0, ctx.rank, ctx.world * config.accumulate)  # refuses a batch that cannot be cut

    def train(self, journal: Journal, stop: Stop) -> Result:
        """Steps until the end or a signal; the last step and an interruption leave a checkpoint."""
        every, meter = self.config.every, Meter()
        if self.step == 0:
            journal.event(0, "started", clips=self.task.clips, trained=sum(p.numel() for p in self.trained.values()))
            self._validate(journal)
        while self.step < self.config.steps:
            meter.add(self._take_step(), self.config.batch)
            journal.tick(self.step)
            last = self.step == self.config.steps
            if self.step % every.log == 0 or last:
                journal.numbers(self.step, "train", meter.drain(self.ctx))
            interrupted = self.ctx.any(stop.signal != 0) and not last
            if last or (self.step % every.validate == 0 and not interrupted):
                self._validate(journal)
            if interrupted:
                path = self._save(journal)
                journal.event(self.step, "interrupted", signal=stop.signal)
                return Result("interrupted", self.step, path, stop.signal or signal.SIGTERM)
            if self.step % every.checkpoint == 0 and not last:
                self._save(journal)
        path = self._save(journal)
        journal.event(self.step, "finished")
        return Result("finished", self.step, path)

    def restore(self) -> list[str]:
        """Continue from the newest whole checkpoint, if any; returns what there is to tell about it."""
        store = self.ctx.store
        notes = []
        if self.ctx.leads and (left := store.clear_partial()):
            notes.append(f"removed unfinished writes: {', '.join(left)}")
        self.ctx.barrier()
        found = store.latest()
        if found is None:
            return notes
        snapshot = read(found.path)
        for key, value in self.task.identity.items():
            before = snapshot.state["identity"].get(key)
            if before != value:
                raise CheckpointError(
                    f"{found.path} was written with another {key} ({before}, now {value}); "
                    f"resume with the same {key}, or start a new run with --init"
                )
        self._load(snapshot)
        notes += [f"passed over {reason}" for reason in found.passed_over]
        return [*notes, f"resuming from {found.path} (step {self.step})"]

    def averaged_weights(self) -> dict[str, Tensor]:
        """What to export for the trained parameters: their running average if there is one, else the weights."""
        return dict(self.average.weights) if self.average else {n: p.detach() for n, p in self.trained.items()}

    def _take_step(self) -> "Step":
        """One optimizer step over all micro-batches; raises before the optimizer if anything is not finite."""
        config, ctx = self.config, self.ctx
        begin = time.perf_counter()
        parts = config.accumulate
        micro = [self.sampler.step(self.step, ctx.rank + ctx.world * i, ctx.world * parts) for i in range(parts)]
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for draws in micro:
            terms = self.task.loss(self.step, draws)
            (terms["loss"] / parts).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / parts
        ctx.average_gradients(self.trained.values())
        limit = config.optim.clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(list(self.trained.values()), limit)
        self._check_finite(sums, norm, [draw for draws in micro for draw in draws])
        rate = learning_rate(self.step, config.optim, config.steps)
        self.optimizer.step(rate)
        self.step += 1
        if self.average:
            self.average.update(self.trained)
        return Step(sums, norm, rate, time.perf_counter() - begin)

    def _check_finite(self, terms: Mapping[str, Tensor], norm: Tensor, draws: Sequence[Draw]) -> None:
        bad = not bool(torch.isfinite(terms["loss"])) or not bool(torch.isfinite(norm))
        if not self.ctx.any(bad):
            return
        path = self.out / (f"diverged-rank{self.ctx.rank}.json" if self.ctx.world > 1 else "diverged.json")
        report = {
            "step": self.step,
            "terms": {name: repr(float(value)) for name, value in terms.items()},
            "gradient_norm": repr(float(norm)),
            "batch": [{"id": self.task.describe(draw), **draw._asdict()} for draw in draws],
        }
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        raise TrainingDivergedError(
            f"step {self.step}: loss {float(terms['loss'])}, gradient norm {float(norm)}. The step was not taken; "
            f"the batch is in {path}. Try a lower optim.lr or a longer optim.warmup, or look at those clips."
        )

    def _validate(self, journal: Journal) -> None:
        self.task.module.eval()
        with torch.no_grad():
            values = self.task.validate()
        self.task.module.train()
        journal.numbers(self.step, "val", values)

    def _save(self, journal: Journal) -> Path:
        path = self.ctx.store.root
        if self.ctx.leads:
            path = self.ctx.store.save(self._snapshot())
            journal.event(self.step, "saved", path=path.name)
        self.ctx.barrier()
        return path

    def _snapshot(self) -> Snapshot:
        tensors: dict[str, Mapping[str, Tensor]] = {
            "model": self.trained,
            "optimizer": self.optimizer.tensors(),
        }
        if self.average:
            tensors["ema"] = self.average.weights
        state = {"step": self.step, "stage": self.config.stage, "identity": dict(self.task.identity)}
        return Snapshot(tensors=tensors, state=state)

    @torch.no_grad()
    def _load(self, snapshot: Snapshot) -> None:
        saved = snapshot.tensors["model"]
        if saved.keys() != self.trained.keys():
            differ = sorted(saved.keys() ^ self.trained.keys())
            raise CheckpointError(f"the checkpoint trains other parameters than this run, first: {differ[:3]}")
        for name, parameter in self.trained.items():
            parameter.copy_(saved[name])
        self.optimizer.load(snapshot.tensors["optimizer"])
        if self.average:
            self.average.load(snapshot.tensors["ema"])
        self.step = int(snapshot.state["step"])


class Step(NamedTuple):
    """What one optimizer step measured; tensors stay on the device until they are logged."""

    terms: Mapping[str, Tensor]
    gradient_norm: Tensor
    learning_rate: float
    seconds: float


class Meter:
    """Averages steps between two log lines."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._samples = 0

    def add(self, step: Step, samples: int) -> None:
        """Take in one step of `samples` samples."""
        self._steps.append(step)
        self._samples += samples

    def drain(self, ctx: Context) -> dict[str, float]:
        """Means since the last call; rates in samples per second, memory in GiB (peak of this process)."""
        steps, seconds = self._steps, sum(step.seconds for step in self._steps)
        names = list(dict.fromkeys(name for step in steps for name in step.terms))
        means = torch.stack([torch.stack([s.terms[n] for s in steps if n in s.terms]).mean() for n in names])
        row = dict(zip(names, ctx.mean(means.float()).tolist(), strict=True))
        row |= {
            "gradient_norm": float(torch.stack([step.gradient_norm for step in steps]).mean()),
            "learning_rate": steps[-1].learning_rate,
            "samples_per_s": self._samples / seconds,
            "memory_gib": _memory_gib(ctx.device),
        }
        self._steps, self._samples = [], 0
        return row


def _memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
