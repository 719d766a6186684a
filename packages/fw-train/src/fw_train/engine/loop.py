"""The training loop, the same for every stage: draw, backward, check, step, log, validate, sample, save.

It knows a `Task` (what the loss is) and a `Context` (which process this is), nothing of models or datasets. All
randomness comes from (seed, step, slot), so a run killed at any instant and resumed ends in the same bits.
"""

import json
import math
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fw_data.dataset.clip_order import ClipSampler, Draw, PoolSampler
from fw_train.config.schema import TrainConfig
from fw_train.engine import health
from fw_train.engine.checkpoint import CheckpointError, Saver, Snapshot, read, step_of
from fw_train.engine.distributed import Context, fill, whole
from fw_train.engine.optim import AdamW, Average, learning_rate, rate_shares
from fw_train.engine.run_log import Journal
from fw_train.engine.signals import Stop
from fw_train.engine.throughput import Meter, Step
from fw_train.engine.trackers import open_trackers

SAMPLES = "samples"
"""Folder of a run that pictures of generated worlds go to."""


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

    def sample(self, path: Path | None) -> None:
        """Generate worlds for held-out clips and draw them into a PNG file, unless `path` is None; every rank calls."""
        ...

    def describe(self, draw: Draw) -> str:
        """The clip behind a draw, for error reports."""
        ...


class TrainingDivergedError(RuntimeError):
    """Loss or gradient is not finite; the optimizer step was not taken."""

    exit_code = 3


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

    Args:
        config: the run.
        task: what is trained, on what.
        ctx: which process this is.
        out: folder for log, pictures and reports; ranks other than 0 log into a folder of their own in it.
        quiet: print nothing.

    Raises:
        TrainingDivergedError: loss or gradient became NaN or infinite; `out/diverged.json` has the batch.
        CheckpointError: the checkpoint belongs to another run, or cannot be written.
    """
    trainer = Trainer(config, task, ctx, out)
    notes = trainer.restore()
    silent, done = quiet or not ctx.leads, trainer.step
    where = out if ctx.leads else out / f"rank-{ctx.rank}"
    trackers = open_trackers(config, out, done) if ctx.leads else []
    with Journal(where, steps=config.steps, step=done, quiet=silent, trackers=trackers) as journal, Stop() as stop:
        for note in notes:
            journal.say(note)
        try:
            return trainer.train(journal, stop)
        except TrainingDivergedError:
            journal.event(trainer.step, "diverged")
            raise
        finally:
            trainer.saver.close()


def make_sampler(config: TrainConfig, clips: int) -> ClipSampler | PoolSampler:
    """Which clips make up which step."""
    if not config.clip.pool:
        return ClipSampler(clips=clips, batch=config.batch, seed=config.seed)
    pool = min(config.clip.pool, clips)
    return PoolSampler(clips=clips, batch=config.batch, seed=config.seed, pool=pool, reuse=config.clip.reuse)


class Trainer:
    """State of a run: network, optimizer, running average, step."""

    def __init__(self, config: TrainConfig, task: Task, ctx: Context, out: Path) -> None:
        self.config, self.task, self.ctx, self.out = config, task, ctx, out
        self.step = 0
        self.trained = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        if not self.trained:
            raise ValueError("nothing to train: no parameter of the network requires a gradient")
        self.optimizer = AdamW(self.trained, config.optim, rate_shares(task.module, config.optim))
        self.average = Average(self.trained, config.optim.ema) if config.optim.ema else None
        self.sampler = make_sampler(config, task.clips)
        self.sampler.step(0, ctx.rank, ctx.world * config.accumulate)  # refuses a batch that cannot be cut
        self.saver = Saver(ctx.store)

    def train(self, journal: Journal, stop: Stop) -> Result:
        """Steps until the end or a signal; the last step and an interruption leave a checkpoint."""
        every, meter = self.config.every, Meter(self.config, self.ctx)
        if self.step == 0:
            journal.event(0, "started", clips=self.task.clips, trained=sum(p.numel() for p in self.trained.values()))
            self._validate(journal)
        while self.step < self.config.steps:
            with meter.counting():
                step = self._take_step()
            meter.add(step)
            journal.tick(self.step)
            self._note_saved(journal, self.saver.finished())
            last = self.step == self.config.steps
            if self.step % every.log == 0 or last:
                values = meter.drain()
                journal.numbers(self.step, "train", values)
                for warning in health.warnings(values):
                    journal.say(warning)
            interrupted = self.ctx.any(stop.signal != 0) and not last
            if last or (self.step % every.validate == 0 and not interrupted):
                self._validate(journal)
            if every.sample and (last or self.step % every.sample == 0) and not interrupted:
                self._sample(journal)
            if interrupted:
                path = self._save(journal, wait=True)
                journal.event(self.step, "interrupted", signal=stop.signal)
                return Result("interrupted", self.step, path, stop.signal or signal.SIGTERM)
            if self.step % every.checkpoint == 0 and not last:
                self._save(journal)
        path = self._save(journal, wait=True)
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
        norm = ctx.clip_gradients(list(self.trained.values()), limit)
        self._check_finite(sums, norm, [draw for draws in micro for draw in draws])
        rate = learning_rate(self.step, config.optim, config.steps)
        self.optimizer.step(rate)
        self.step += 1
        if self.average:
            self.average.update(self.trained, self.step)
        return Step(sums, norm, rate, time.perf_counter() - begin)

    def _check_finite(self, terms: Mapping[str, Tensor], norm: Tensor, draws: Sequence[Draw]) -> None:
        bad = not bool(torch.isfinite(terms["loss"])) or not bool(torch.isfinite(norm))
        if not self.ctx.any(bad):
            return
        path = self.out / (f"diverged-rank{self.ctx.rank}.json" if self.ctx.world > 1 else "diverged.json")
        with torch.no_grad():
            alone = [float(self.task.loss(self.step, [draw])["loss"]) for draw in draws]
        batch = [
            {"id": self.task.describe(draw), "loss": repr(loss), **draw._asdict()}
            for draw, loss in zip(draws, alone, strict=True)
        ]
        report = {
            "step": self.step,
            "terms": {name: repr(float(value)) for name, value in terms.items()},
            "gradient_norm": repr(float(norm)),
            "batch": batch,
        }
        path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        blamed = [row["id"] for row, loss in zip(batch, alone, strict=True) if not math.isfinite(loss)]
        some = 0 < len(blamed) < len(batch)
        advice = f"look at {', '.join(blamed)}" if some else "try a lower optim.lr or a longer optim.warmup"
        raise TrainingDivergedError(
            f"step {self.step}: loss {float(terms['loss'])}, gradient norm {float(norm)}. The step was not taken; "
            f"the batch, with the loss of each sample alone, is in {path}: {advice}."
        )

    def _validate(self, journal: Journal) -> None:
        self.task.module.eval()
        with torch.no_grad():
            values = self.task.validate()
        self.task.module.train()
        journal.numbers(self.step, "val", values)

    def _sample(self, journal: Journal) -> None:
        path = self.out / SAMPLES / f"step-{self.step:08d}.png"
        self.task.module.eval()
        with torch.no_grad():
            self.task.sample(path if self.ctx.leads else None)
        self.task.module.train()
        if self.ctx.leads:
            journal.picture(self.step, path)

    def _save(self, journal: Journal, *, wait: bool = False) -> Path:
        """Begin a save, once the one before is done; `wait` for it, on every rank."""
        self._note_saved(journal, self.saver.wait())
        snapshot = self._snapshot()
        if self.ctx.leads:
            self.saver.start(snapshot)
        if wait:
            self._note_saved(journal, self.saver.wait())
            self.ctx.barrier()
        return self.ctx.store.path(self.step)

    def _note_saved(self, journal: Journal, path: Path | None) -> None:
        if path is not None:
            journal.event(step_of(path), "saved", path=path.name)

    def _snapshot(self) -> Snapshot:
        """The state as it is now, copied to the host on rank 0; every rank calls this."""
        tensors: dict[str, Mapping[str, Tensor]] = {"model": self.trained, "optimizer": self.optimizer.tensors()}
        if self.average:
            tensors["ema"] = self.average.weights
        copies: dict[str, dict[str, Tensor]] = {}
        for stem, named in tensors.items():
            for name, tensor in named.items():
                put_together = whole(tensor)
                if self.ctx.leads:
                    copies.setdefault(stem, {})[name] = put_together.to("cpu", copy=True)
        state = {"step": self.step, "stage": self.config.stage, "identity": dict(self.task.identity)}
        return Snapshot(tensors=copies, state=state)

    @torch.no_grad()
    def _load(self, snapshot: Snapshot) -> None:
        saved = snapshot.tensors["model"]
        if saved.keys() != self.trained.keys():
            differ = sorted(saved.keys() ^ self.trained.keys())
            raise CheckpointError(f"the checkpoint trains other parameters than this run, first: {differ[:3]}")
        for name, parameter in self.trained.items():
            fill(parameter, saved[name])
        self.optimizer.load(snapshot.tensors["optimizer"])
        if self.average:
            self.average.load(snapshot.tensors["ema"])
        self.step = int(snapshot.state["step"])
