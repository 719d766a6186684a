"""The training loop of every stage: draw, backward, check, step, log, validate, preview, save.

It knows a `Task` (the loss) and a `Context` (the process), nothing of models or datasets. All randomness comes from
(seed, step, slot), so a run that is killed at any time and resumed ends in the same bits.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fw_core.files import write_text
from fw_data.dataset.clip_order import Draw
from fw_model.parallel.shards import local_part
from fw_train.config.schema import TrainConfig
from fw_train.data.order import Added, ClipOrder, OrderSampler
from fw_train.engine import health
from fw_train.engine.checkpoint import CheckpointError, OtherRunError, Saver, Snapshot, defect, read_state, step_of
from fw_train.engine.checkpoint_files import open_tensors
from fw_train.engine.distributed import Context, copy_into, full_tensor
from fw_train.engine.optim import EMA, AdamW, learning_rate, rate_shares
from fw_train.engine.run_log import ADDED, RunLog
from fw_train.engine.sharded_saver import ShardedSaver, any_sharded, own_part
from fw_train.engine.signals import GracefulShutdown
from fw_train.engine.throughput import Meter, Step
from fw_train.engine.trackers import open_trackers

SAMPLES = "samples"
"""Folder, in a run folder, of the previews."""
DATASET, SKIPPED = "dataset", "skipped clips"
"""Entries of a checkpoint's identity that may grow when a run resumes."""


@runtime_checkable
class Task(Protocol):
    """A network, its data and its loss."""

    @property
    def module(self) -> nn.Module:
        """The network; its parameters with requires_grad are trained."""
        ...

    @property
    def order(self) -> ClipOrder:
        """The training clips, which draws index."""
        ...

    @property
    def identity(self) -> Mapping[str, str]:
        """Hashes that a checkpoint and its resume must agree on (configuration, dataset, frozen weights), and the ids
        of skipped clips."""
        ...

    def dataset_digest(self, train: int, held_out: int) -> str:
        """The hash of the dataset that `identity` had when it was of this many first clips."""
        ...

    @property
    def prefetch(self) -> int:
        """Number of draws to announce before they are needed."""
        ...

    def announce(self, draws: Sequence[Draw]) -> None:
        """Start to load the samples of coming draws in the background."""
        ...

    def tokens(self, draw: Draw) -> int:
        """Video tokens of a draw's sample."""
        ...

    def loss(self, step: int, draws: Sequence[Draw]) -> Mapping[str, Tensor]:
        """Scalars averaged over the draws; `loss` is differentiable, the others are for the log."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Measurements on held-out clips, with the same noise every time; contains `loss`. Every rank calls it."""
        ...

    def sample(self, path: Path | None) -> Sequence[str]:
        """Generate worlds for held-out clips and draw them into a PNG file, unless `path` is None. Every rank calls
        it. Returns notes on the inputs of these worlds, such as a caption that is too long."""
        ...

    def describe(self, draw: Draw) -> str:
        """The clip of a draw, for error reports; begins with its id."""
        ...


class TrainingDivergedError(RuntimeError):
    """Loss or gradient is not finite; the optimizer step was not taken."""

    exit_code = 3


class Result(NamedTuple):
    """The end of a run."""

    status: Literal["finished", "interrupted"]
    step: int
    """Optimizer steps done."""
    checkpoint: Path
    """The last checkpoint."""
    signal: int = 0
    """The signal that interrupted the run."""


def run(
    config: TrainConfig,
    task: Task,
    ctx: Context,
    *,
    out: Path,
    quiet: bool = False,
    on_start: Callable[[], None] = lambda: None,
) -> Result:
    """Train from the newest complete checkpoint of `ctx.store` (or from the start) to `config.steps`.

    Args:
        config: the run.
        task: network, data and loss.
        ctx: this process.
        out: folder for log, previews and reports; ranks other than 0 log into a subfolder.
        quiet: print nothing.
        on_start: called once the checkpoint, if any, is found to be of this run; nothing is written before.

    Raises:
        TrainingDivergedError: loss or gradient became NaN or infinite; `out/diverged.json` lists the batch.
        OtherRunError: the checkpoint belongs to another run; nothing was changed on disk.
        CheckpointError: a checkpoint cannot be read or written.
    """
    trainer = Trainer(config, task, ctx, out)
    notes = trainer.restore()
    on_start()
    silent, done = quiet or not ctx.is_main, trainer.step
    where = out if ctx.is_main else out / f"rank-{ctx.rank}"
    trackers = open_trackers(config, out, done) if ctx.is_main else []
    with (
        RunLog(where, steps=config.steps, step=done, quiet=silent, trackers=trackers) as run_log,
        GracefulShutdown() as shutdown,
    ):
        for note in notes:
            run_log.message(note)
        if trainer.added and trainer.added[-1].step == done:
            run_log.event(done, ADDED, train=trainer.added[-1].train, held_out=trainer.added[-1].held_out)
        try:
            return trainer.train(run_log, shutdown)
        finally:
            trainer.saver.close()


class Trainer:
    """State of a run: network, optimizer, moving average, step."""

    def __init__(self, config: TrainConfig, task: Task, ctx: Context, out: Path) -> None:
        self.config, self.task, self.ctx, self.out = config, task, ctx, out
        self.step = 0
        self.added: list[Added] = []
        self.trained = {n: p for n, p in task.module.named_parameters() if p.requires_grad}
        if not self.trained:
            raise ValueError("nothing to train: no parameter of the network requires a gradient")
        self.optimizer = AdamW(
            self.trained,
            config.optim,
            rate_shares(task.module, config.optim),
            offload=config.compute.offload_optimizer,
        )
        self.ema = EMA(self.trained, config.optim.ema) if config.optim.ema else None
        self.sampler = OrderSampler(config, task.order)
        self.sampler.step(0, ctx.data_rank, ctx.data_size * config.accumulate)  # raises if the batch cannot be cut
        self.saver = ShardedSaver(ctx.store, ctx) if any_sharded(self.trained) else Saver(ctx.store)
        self._announced = 0

    def train(self, run_log: RunLog, shutdown: GracefulShutdown) -> Result:
        """Train until the last step or a signal; both leave a checkpoint, and so does a divergence."""
        every, meter = self.config.every, Meter(self.config, self.ctx)
        if self.step == 0:
            trained = sum(p.numel() for p in self.trained.values())
            run_log.event(0, "started", clips=self.task.order.clips, trained=trained)
            self._validate(run_log)
        first = self.step
        while self.step < self.config.steps:
            micro = self._draws(self.step)
            tokens = sum(self.task.tokens(draw) for draws in micro for draw in draws)
            with meter.counting(tokens):
                try:
                    step = self._take_step(micro)
                except TrainingDivergedError as error:
                    raise self._saved_before_exit(run_log, error) from None
            meter.add(step, tokens)
            if self.step == first + 1:
                self._report_missing_gradients(run_log)
            run_log.progress(self.step)
            self._note_saved(run_log, self.saver.finished())
            last = self.step == self.config.steps
            if self.step % every.log == 0 or last:
                values = meter.drain()
                run_log.metrics(self.step, "train", values)
                for warning in health.warnings(values):
                    run_log.message(warning)
            interrupted = self.ctx.any(shutdown.signal != 0) and not last
            if last or (self.step % every.validate == 0 and not interrupted):
                self._validate(run_log)
            if every.sample and (last or self.step % every.sample == 0) and not interrupted:
                self._sample(run_log)
            if interrupted:
                path = self._save(run_log, wait=True)
                run_log.event(self.step, "interrupted", signal=shutdown.signal)
                return Result("interrupted", self.step, path, shutdown.signal or signal.SIGTERM)
            if self.step % every.checkpoint == 0 and not last:
                self._save(run_log)
        path = self._save(run_log, wait=True)
        run_log.event(self.step, "finished")
        return Result("finished", self.step, path)

    def restore(self) -> list[str]:
        """Load the newest complete checkpoint, if any; returns notes to print.

        Raises:
            OtherRunError: the checkpoint belongs to another run; nothing was changed on disk.
        """
        store = self.ctx.store
        self._check_ranks()
        found = store.latest(self._defect)
        notes = []
        if found is not None:
            state = read_state(found.path)
            notes += self._check_identity(found.path, state)
            self._load(open_tensors(found.path), state)
            notes += [f"skipped {reason}" for reason in found.passed_over]
            notes += [f"resuming from {found.path} (step {self.step})"]
        self.ctx.wait_for_all()  # every rank has read before one of them deletes
        if self.ctx.is_main and (left := store.clear_partial()):
            notes.insert(0, f"removed incomplete checkpoints: {', '.join(left)}")
        self._announced = self.step
        return notes

    def _defect(self, path: Path) -> str | None:
        """Why a folder is not a complete checkpoint; every rank reads some of its files."""
        reasons = self.ctx.gather(defect(path, share=(self.ctx.rank, self.ctx.world_size)))
        return next((reason for reason in reasons if reason is not None), None)

    def _check_ranks(self) -> None:
        """Raise OtherRunError if the dataset changed while the processes started, so that they see different ones."""
        if len(set(self.ctx.gather(self.task.identity.get(DATASET)))) > 1:
            raise OtherRunError(
                "the dataset changed while the processes of the run started; start them again", key=DATASET
            )

    def _check_identity(self, path: Path, state: Mapping[str, Any]) -> list[str]:
        """Compare a checkpoint with the run; returns notes on clips that were skipped or added since then."""
        before: Mapping[str, str] = state["identity"]
        for key, value in self.task.identity.items():
            if key not in (SKIPPED, DATASET) and before.get(key) != value:
                raise OtherRunError(
                    f"{path} was written with another {key}; resume with the same {key}, or start a new run with "
                    f"--init {self.out}",
                    key=key,
                )
        skipped = [set(ids.get(SKIPPED, "").split()) for ids in (before, self.task.identity)]
        if missing := skipped[0] - skipped[1]:
            raise OtherRunError(f"{path} was written with --skip {' '.join(sorted(missing))}; resume with it too")
        self.added = [Added(*row) for row in state.get("added", [])]
        notes = []
        if before.get(DATASET) != self.task.identity.get(DATASET):
            self.added.append(self._added_since(path, state))
            notes.append(str(self.added[-1]))
        if self.added:
            self.sampler = OrderSampler(self.config, self.task.order, self.added)
        new = sorted(skipped[1] - skipped[0])
        return [*notes, f"skipping clips from here on: {', '.join(new)}"] if new else notes

    def _added_since(self, path: Path, state: Mapping[str, Any]) -> Added:
        """The clips that were added since a checkpoint; raises OtherRunError if that is not all that has changed."""
        order, before = self.task.order, state.get("clips")  # checkpoints of earlier versions lack it
        if before is not None and self.task.dataset_digest(**before) == state["identity"][DATASET]:
            train, held_out = order.clips - before["train"], order.held_out - before["held_out"]
            if min(train, held_out) >= 0 < train + held_out:
                return Added(int(state["step"]), train, held_out)
        raise OtherRunError(
            f"{path} was written with another {DATASET}; clips may be added, but the earlier ones must stay as they "
            f"are, in training or held out; restore the {DATASET}, or start a new run with --init {self.out}",
            key=DATASET,
        )

    def _draws(self, step: int) -> list[list[Draw]]:
        """The draws of this rank at a step, by micro-batch."""
        rank, size, parts = self.ctx.data_rank, self.ctx.data_size, self.config.accumulate
        return [self.sampler.step(step, rank + size * part, size * parts) for part in range(parts)]

    def _announce(self) -> None:
        """Announce the draws of the coming steps, so that they are loaded in the background."""
        if self.task.prefetch == 0:
            return
        ahead = math.ceil(self.task.prefetch * self.ctx.data_size / self.config.batch)
        last = min(self.config.steps, self.step + 1 + ahead)
        for step in range(max(self._announced, self.step), last):
            for draws in self._draws(step):
                self.task.announce(draws)
        self._announced = max(self._announced, last)

    def _take_step(self, micro: Sequence[Sequence[Draw]]) -> Step:
        """One optimizer step over all micro-batches; raises before the update if anything is not finite."""
        config, ctx = self.config, self.ctx
        begin = time.perf_counter()
        self._announce()
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for draws in micro:
            terms = self.task.loss(self.step, draws)
            (terms["loss"] / len(micro)).backward()
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(micro)
        ctx.average_gradients(self.trained.values())
        limit = config.optim.clip_norm or math.inf
        norm = ctx.clip_gradients(list(self.trained.values()), limit)
        self._check_finite(sums, norm, [draw for draws in micro for draw in draws])
        rate = learning_rate(self.step, config.optim, config.steps)
        self.optimizer.step(rate)
        self.step += 1
        if self.ema:
            self.ema.update(self.trained, self.step)
        return Step(sums, norm, rate, time.perf_counter() - begin)

    def _check_finite(self, terms: Mapping[str, Tensor], norm: Tensor, draws: Sequence[Draw]) -> None:
        bad = not bool(torch.isfinite(terms["loss"])) or not bool(torch.isfinite(norm))
        if not self.ctx.any(bad):
            return
        path = self.out / (f"diverged-rank{self.ctx.rank}.json" if self.ctx.world_size > 1 else "diverged.json")
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
        write_text(path, json.dumps(report, indent=1) + "\n")
        blamed = [str(row["id"]).split()[0] for row, loss in zip(batch, alone, strict=True) if not math.isfinite(loss)]
        some = 0 < len(blamed) < len(batch)
        fix = f"look at {', '.join(blamed)}" if some else "use a lower optim.lr or a longer optim.warmup"
        if some:
            fix += f", or leave it out: fw-train resume {self.out} --skip {' '.join(dict.fromkeys(blamed))}"
        raise TrainingDivergedError(
            f"step {self.step}: loss {float(terms['loss'])}, gradient norm {float(norm)}. The step was not taken; "
            f"{path} lists the loss of each sample of the batch: {fix}"
        )

    def _saved_before_exit(self, run_log: RunLog, error: TrainingDivergedError) -> TrainingDivergedError:
        """Save the weights before the diverged step, if they are finite; returns the error with a note about it."""
        run_log.event(self.step, "diverged")
        healthy = all(bool(torch.isfinite(local_part(p)).all()) for p in self.trained.values())
        if not self.ctx.any(not healthy):
            return TrainingDivergedError(f"{error}. Checkpoint before this step: {self._save(run_log, wait=True)}")
        self._note_saved(run_log, self.saver.wait())
        return TrainingDivergedError(f"{error}. The weights are not finite either, so they were not saved")

    def _report_missing_gradients(self, run_log: RunLog) -> None:
        """Warn about trained parameters that the loss of the first step does not depend on."""
        unused = [name for name, parameter in self.trained.items() if parameter.grad is None]
        if unused:
            count = sum(self.trained[name].numel() for name in unused)
            run_log.message(
                f"warning: {count:,} trained parameters got no gradient in step {self.step}: {', '.join(unused[:3])}"
                + (f" and {len(unused) - 3} more tensors" if len(unused) > 3 else "")
            )

    def _validate(self, run_log: RunLog) -> None:
        self.task.module.eval()
        with torch.no_grad():
            values = self.task.validate()
        self.task.module.train()
        run_log.metrics(self.step, "val", values)

    def _sample(self, run_log: RunLog) -> None:
        path = self.out / SAMPLES / f"step-{self.step:08d}.png"
        self.task.module.eval()
        with torch.no_grad():
            notes = self.task.sample(path if self.ctx.is_main else None)
        self.task.module.train()
        if self.ctx.is_main:
            run_log.image(self.step, path, notes)

    def _save(self, run_log: RunLog, *, wait: bool = False) -> Path:
        """Start a save after the previous one; with `wait`, return once it is complete, on every rank."""
        self._note_saved(run_log, self.saver.wait())
        self.ctx.wait_for_all()  # rank 0 may have waited for a slow disk
        snapshot = self._snapshot()
        if self.ctx.is_main or isinstance(self.saver, ShardedSaver):
            self.saver.start(snapshot)
        if wait:
            self._note_saved(run_log, self.saver.wait())
            self.ctx.wait_for_all()
        return self.ctx.store.path(self.step)

    def _note_saved(self, run_log: RunLog, path: Path | None) -> None:
        if path is not None:
            run_log.event(step_of(path), "saved", path=path.name)

    def _snapshot(self) -> Snapshot:
        """The current state, copied to the host: all of it on rank 0, or the rows of this rank."""
        tensors: dict[str, Mapping[str, Tensor]] = {"model": self.trained, "optimizer": self.optimizer.tensors()}
        if self.ema:
            tensors["ema"] = self.ema.weights
        state = {
            "step": self.step,
            "stage": self.config.stage,
            "identity": dict(self.task.identity),
            "clips": {"train": self.task.order.clips, "held_out": self.task.order.held_out},
            "added": self.added,
        }
        return own_part(tensors, state, is_main=self.ctx.is_main)

    @torch.no_grad()
    def _load(self, saved: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        if differ := self._unexplained(saved["model"]):
            raise CheckpointError(f"the checkpoint trains other parameters than this run, first: {differ[:3]}")
        for name, parameter in self.trained.items():
            copy_into(parameter, saved["model"], name)
        self.optimizer.load(saved["optimizer"])
        if self.ema:
            self.ema.load(saved["ema"])
        self.step = int(state["step"])

    def _unexplained(self, saved: Mapping[str, Tensor]) -> list[str]:
        """Names that only the checkpoint or only this run trains.

        Earlier versions counted parameters without a gradient as trained; these still have their initial values.
        """
        frozen = dict(self.task.module.named_parameters())
        differ = []
        for name in sorted(saved.keys() ^ self.trained.keys()):
            unchanged = name in saved and name in frozen
            if unchanged:
                now = full_tensor(frozen[name]).cpu()
                unchanged = torch.equal(now, saved[name].to(now.dtype))
            differ += [] if unchanged else [name]
        return differ
