"""The engine of fw-serve: a `WorldPipeline` whose worlds become the files that the API serves."""

import gc
import logging
import os
import time
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import torch

from fw_core.devices import choose_device
from fw_model.parallel.group import WorldGroup, join
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import Progress, World
from fw_model.planning.generation import GenerationChoice, GenerationParts, plan_generation, text_encoder_bytes
from fw_serve.jobs.model import ModelCard
from fw_serve.worker.artifacts import sprite_sheet, write_artifacts
from fw_serve.worker.engine import EngineLostError, JobError, JobInputs, JobProgress, OutOfMemoryError

PREVIEW_S = 2.0
"""Minimum seconds between previews."""
PREVIEW_SHARE = 0.1
"""Maximum share of the time that previews may take."""
log = logging.getLogger(__name__)

MARGIN = 1.1
"""Factor on the measured memory, for jobs of other sizes."""


class WorldEngine:
    """Drives a pipeline.

    In a group of processes, each job begins with its LoRA for the followers and ends with None; what the pipeline
    sends is in between.

    Args:
        pipeline: generates the worlds.
        name: name of the model in the API.
        loras: file and scale by name, for requests that choose one.
    """

    def __init__(self, pipeline: WorldPipeline, name: str, loras: dict[str, tuple[str, float]] | None = None) -> None:
        self.pipeline, self.loras = pipeline, loras or {}
        self.card = ModelCard(
            name=name,
            settings=pipeline.sampling,
            about=about(pipeline),
            loras=tuple(self.loras),
            memory_bytes=_device_bytes(pipeline),
            **(_planned(pipeline) if pipeline.parallel is None or pipeline.parallel.is_leader else {}),
        )

    def run(self, task: JobInputs, folder: Path) -> Generator[JobProgress, None, None]:
        """See `JobEngine.run`."""
        request, world = task.request, None
        before = _restart_peak(self.pipeline.device)
        with self._named_errors(), self._with_lora(request.lora), self._followed(request.lora):
            reports = self.pipeline.generate(
                task.image, request.prompt, task.camera, request.settings, notes=request.notes
            )
            previews = _Previews(self.pipeline)
            with closing(reports):
                for report in reports:
                    yield JobProgress(
                        stage=report.stage, step=report.step, steps=report.steps, eta_seconds=report.eta_seconds,
                        preview=previews.of(report),
                    )  # fmt: skip
                    world = report.world
            assert world is not None, "a generation ends with a world"
            self._measure(world, before)
            yield JobProgress(stage="export", step=0, steps=1)
            write_artifacts(world, folder)
        yield JobProgress(stage="export", step=1, steps=1, eta_seconds=0.0, notes=world.notes)

    def recover(self) -> None:
        """See `JobEngine.recover`."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._is_lost():
            raise EngineLostError("the processes of this worker are out of step after an error")

    def follow(self) -> None:
        """See `JobEngine.follow`."""
        group = self.pipeline.parallel
        assert group is not None, "one process alone follows nobody"
        with self._named_errors():
            while (job := group.hear()) is not None:
                with self._with_lora(job["lora"]):
                    self.pipeline.follow()

    @contextmanager
    def _followed(self, lora: str | None) -> Generator[None, None, None]:
        """A job in which the other processes take part."""
        group = self.pipeline.parallel
        if group is None:
            yield
            return
        group.tell({"lora": lora})
        try:
            yield
        finally:
            if not group.broken:
                group.tell(None)

    def _is_lost(self) -> bool:
        return self.pipeline.parallel is not None and self.pipeline.parallel.broken

    @contextmanager
    def _with_lora(self, name: str | None) -> Generator[None, None, None]:
        """The pipeline with one LoRA of the list, which is removed afterwards."""
        if name is None:
            yield
            return
        if name not in self.loras:
            raise JobError(f"LoRA {name!r} is no longer available")
        path, scale = self.loras[name]
        self.pipeline.load_lora(path, scale, name=name)
        try:
            yield
        finally:
            self.pipeline.unload_lora(name)

    def _measure(self, world: World, before: int | None) -> None:
        """Update the memory figures of the card if this job is the largest so far and raised the peak."""
        peak, pixels = _peak_bytes(self.pipeline.device), world.depth.size
        if peak is None or before is None or peak <= before or pixels < self.card.measured_pixels:
            return
        per_pixel = MARGIN * max(0, peak - self.card.fixed_bytes) / pixels
        self.card = self.card.model_copy(update={"pixel_bytes": per_pixel, "measured_pixels": pixels})

    @contextmanager
    def _named_errors(self) -> Generator[None, None, None]:
        """Translate errors of torch and the pipeline into those of `JobEngine`."""
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise OutOfMemoryError(str(error)) from error
        except RuntimeError as error:
            if "not enough memory" in str(error) or "out of memory" in str(error):  # of the CPU and of CUDA
                raise OutOfMemoryError(str(error)) from error
            if self._is_lost():
                raise EngineLostError(f"the processes of this worker are out of step: {error}") from error
            raise
        except (ValueError, FloatingPointError) as error:
            raise JobError(str(error)) from error


class _Previews:
    """Previews of a running generation, rarely enough to cost little."""

    def __init__(self, pipeline: WorldPipeline) -> None:
        self.pipeline, self.spent_s = pipeline, 0.0
        self.began = self.latest = time.monotonic()

    def of(self, report: Progress) -> bytes | None:
        """A JPEG with the frames as denoised so far; None if there is none, or if it is too early for the next."""
        now = time.monotonic()
        if report.clean_latents is None or now - self.latest < PREVIEW_S or report.step == report.steps:
            return None
        if self.spent_s > PREVIEW_SHARE * (now - self.began):
            return None
        out = BytesIO()
        sprite_sheet(self.pipeline.decode_frames(report.clean_latents)).save(out, "JPEG", quality=75)
        self.latest = time.monotonic()
        self.spent_s += self.latest - now
        return out.getvalue()


def load(
    checkpoint: str,
    name: str | None,
    device: str,
    dtype: str | None,
    offload: Any,
    compile_blocks: bool,
    loras: dict[str, Any] | None = None,
    place: dict[str, Any] | None = None,
) -> WorldEngine:
    """Load a pipeline folder or hub id, in a group of processes with this `place` (see `join`).

    Raises:
        ValueError: not a pipeline, or one that so many processes cannot divide.
    """
    chosen_device, group = choose_device(device), None
    if place is not None:
        join(chosen_device, **place)
        group = WorldGroup(device=chosen_device)
    pipeline = WorldPipeline.from_pretrained(
        checkpoint,
        device=chosen_device,
        dtype=None if dtype is None else getattr(torch, dtype),
        offload=offload,
        compile_blocks=compile_blocks,
        parallel=group,
    )
    pipeline.check_division(pipeline.sampling)
    chosen = {key: (str(path), float(scale)) for key, (path, scale) in (loras or {}).items()}
    return WorldEngine(pipeline, name or f"fantasy-world-{pipeline.world.config.name}", chosen)


def about(pipeline: WorldPipeline) -> str:
    """What to expect of a model, from its size and training."""
    sampling = pipeline.sampling
    parameters = sum(parameter.numel() for parameter in pipeline.world.parameters())
    size = f"{parameters / 1e9:.1f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.1f} million"
    text = f"{size} parameters, trained for {sampling.num_frames} frames of {sampling.width}x{sampling.height}."
    if pipeline.trained_on:
        text += f" It has seen only {pipeline.trained_on}: other images give rough, abstract worlds."
    return text


def _planned(pipeline: WorldPipeline) -> dict[str, Any]:
    """Memory figures of the card before the first job: memory in use, and the planned peak beyond it per pixel."""
    sampling, placement, device = pipeline.sampling, pipeline.placement, pipeline.device
    used = _used_bytes(device) or 0
    if pipeline.text_device in (None, device):
        used += text_encoder_bytes(pipeline.text_encoder)  # loaded with the first prompt
    choice = GenerationChoice(
        frames=sampling.num_frames,
        height=sampling.height,
        width=sampling.width,
        dtype=pipeline.world.video.patch_embedding.weight.dtype,
        offload=placement.offload,
        processes=_processes(pipeline),
        guided=sampling.guidance_scale != 1,
    )
    worlds = [world for world in (pipeline.world, pipeline.high_noise) if world is not None]
    parts = GenerationParts(
        autoencoder=pipeline.autoencoder, text_encoder=0, decode_dtype=torch.bfloat16 if device.type == "cuda" else None
    )
    try:
        plan = plan_generation([world.config for world in worlds], parts, choice)
    except (ValueError, RuntimeError) as error:
        log.warning("the memory of the first job cannot be planned, so it is not checked: %s", error)
        return {"fixed_bytes": used}
    if placement.offload != "none":
        used += plan.weights  # on the device only while they are used
    pixels = sampling.num_frames * sampling.height * sampling.width
    return {"fixed_bytes": used, "pixel_bytes": MARGIN * (plan.bytes - plan.weights) / pixels}


def _processes(pipeline: WorldPipeline) -> int:
    return 1 if pipeline.parallel is None else pipeline.parallel.size


def _device_bytes(pipeline: WorldPipeline) -> int | None:
    """Memory of a device; for the CPU, this process's share of the machine's."""
    device = pipeline.device
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu":
        limit = Path("/sys/fs/cgroup/memory.max")
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        text = limit.read_text().strip() if limit.is_file() else "max"
        return (total if text == "max" else min(total, int(text))) // _processes(pipeline)
    return None


def _used_bytes(device: torch.device) -> int | None:
    """Memory in use: of tensors on a GPU, of this process on the CPU; None if unknown."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else _process_bytes("VmRSS")


def _restart_peak(device: torch.device) -> int | None:
    """Measure the peak from now on; returns it as of now. Where a process may not reset it, it stays."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif device.type == "cpu":
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets VmHWM
    return _peak_bytes(device)


def _peak_bytes(device: torch.device) -> int | None:
    """Peak memory since `_restart_peak`; None if unknown."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _process_bytes("VmHWM")


def _process_bytes(name: str) -> int | None:
    """A size in the status of this process (Linux); None elsewhere."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)
