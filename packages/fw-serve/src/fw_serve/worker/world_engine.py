"""The engine of the product: a `WorldPipeline`, and its worlds as the files that the API hands out."""

import gc
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from fw_core.devices import choose_device
from fw_model.pipeline.pipeline import WorldPipeline
from fw_serve.jobs.model import ModelCard
from fw_serve.worker.artifacts import write_artifacts
from fw_serve.worker.engine import JobError, JobInputs, JobProgress, OutOfMemoryError


class WorldEngine:
    """Drives a pipeline.

    Args:
        pipeline: what makes the worlds.
        name: what the API calls the model.
    """

    def __init__(self, pipeline: WorldPipeline, name: str) -> None:
        self.pipeline = pipeline
        self.card = ModelCard(name=name, settings=pipeline.sampling)

    def run(self, task: JobInputs, folder: Path) -> Generator[JobProgress, None, None]:
        """See `JobEngine.run`."""
        request, world = task.request, None
        with _named_errors():
            reports = self.pipeline.generate(task.image, request.prompt, task.camera, request.settings)
            for report in reports:
                yield JobProgress(
                    stage=report.stage, step=report.step, steps=report.steps, eta_seconds=report.eta_seconds
                )  # fmt: skip
                world = report.world
            assert world is not None, "a generation ends with a world"
            yield JobProgress(stage="export", step=0, steps=1)
            write_artifacts(world, folder)
        yield JobProgress(stage="export", step=1, steps=1, eta_seconds=0.0)

    def recover(self) -> None:
        """See `JobEngine.recover`."""
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def load(
    checkpoint: str, name: str | None, device: str, dtype: str | None, offload: Any, compile_blocks: bool
) -> WorldEngine:
    """Load a pipeline folder or hub id and make it ready. Raises ValueError if it is not one."""
    pipeline = WorldPipeline.from_pretrained(
        checkpoint,
        device=choose_device(device),
        dtype=None if dtype is None else getattr(torch, dtype),
        offload=offload,
        compile_blocks=compile_blocks,
    )
    return WorldEngine(pipeline, name or f"fantasy-world-{pipeline.world.config.name}")


@contextmanager
def _named_errors() -> Generator[None, None, None]:
    """Errors of torch and of the pipeline in the words of `JobEngine`."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemoryError(str(error)) from error
    except RuntimeError as error:
        if "not enough memory" in str(error) or "out of memory" in str(error):  # the CPU allocator's and CUDA's words
            raise OutOfMemoryError(str(error)) from error
        raise
    except (ValueError, FloatingPointError) as error:
        raise JobError(str(error)) from error
