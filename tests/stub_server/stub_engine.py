"""An engine that takes milliseconds and obeys words of the prompt, so that tests can make anything happen.

steps=N         N denoising steps (3)
pause=S         seconds that each takes
hold=FILE       wait in the first step until FILE exists
preview=FILE    show a preview with the first step, then wait until FILE exists
too-long        a note about the prompt
oom, crash, wrong, broken      fail in the first step: out of memory, SIGKILL, a JobError, a bug
crash-once=FILE  SIGKILL unless FILE exists, which is made
"""

import os
import re
import signal
import time
from pathlib import Path

from fw_model.pipeline.settings import Sampling
from fw_serve.jobs.model import ModelCard
from fw_serve.worker.engine import JobError, JobProgress, OutOfMemoryError

CARD = ModelCard(
    name="stub",
    settings=Sampling(num_frames=5, width=48, height=32, fps=16.0, num_inference_steps=3, guidance_scale=1.0),
)

FILES = {
    "video.mp4": b"\0\0\0 ftypisom" + b"v" * 1000,
    "thumbnail.webp": b"RIFFwebp",
    "spritesheet.jpg": b"\xff\xd8jpg",
    "depth.mp4": b"depth",
    "depth.zip": b"PK",
    "confidence.mp4": b"confidence",
    "geometry.npz": b"PK",
    "points.glb": b"glTF",
    "points.ply": b"ply",
    "points.bin": b"FWPOINTS",
    "cameras.json": b"{}",
    "transforms.json": b"{}",
    "requested_cameras.json": b"{}",
    "colmap.zip": b"PK",
    "world.json": b"{}",
}


class StubEngine:
    """Obeys; writes every attempt and every end to a journal."""

    def __init__(self, journal=None, files=None, name="stub"):
        self.card = CARD.model_copy(update={"name": name})
        self.files = FILES if files is None else {path.name: path.read_bytes() for path in Path(files).iterdir()}
        self.journal = None if journal is None else Path(journal)
        self.recovered = 0

    def run(self, task, folder):
        prompt = task.request.prompt
        assert task.image.read_bytes().startswith(b"\x89PNG")
        assert len(task.camera) >= task.request.shape[0]
        self.note(f"begin {prompt}")
        yield JobProgress(stage="encode", step=1, steps=1)
        self.obey(prompt)
        steps = int(word(prompt, "steps", "3"))
        for step in range(1, steps + 1):
            time.sleep(float(word(prompt, "pause", "0")))
            self.note(f"step {prompt}")
            gate = word(prompt, "preview", "") if step == 1 else ""
            preview = self.files["spritesheet.jpg"] if gate else None
            yield JobProgress(
                stage="denoise", step=step, steps=steps, eta_seconds=float(steps - step), preview=preview
            )  # fmt: skip
            wait_for(gate)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        self.note(f"end {prompt}")
        cut = ("the prompt is too long",) if "too-long" in prompt.split() else ()
        yield JobProgress(stage="export", step=1, steps=1, notes=(*task.request.notes, *cut))

    def obey(self, prompt):
        wait_for(word(prompt, "hold", ""))
        once = word(prompt, "crash-once", "")
        if once and not Path(once).exists():
            Path(once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        words = prompt.split()
        if "oom" in words:
            raise OutOfMemoryError("CUDA out of memory (injected)")
        if "crash" in words:
            os.kill(os.getpid(), signal.SIGKILL)
        if "wrong" in words:
            raise JobError("this cannot be made")
        if "broken" in words:
            raise KeyError("/secret/path")

    def recover(self):
        self.recovered += 1

    def follow(self):
        raise AssertionError("a stub works alone")

    def note(self, line):
        if self.journal is not None:
            with self.journal.open("a") as file:
                file.write(line + "\n")


def wait_for(gate):
    while gate and not Path(gate).exists():
        time.sleep(0.005)


def word(prompt, name, default):
    found = re.search(rf"(?<!\S){name}=(\S+)", prompt)
    return found.group(1) if found else default


def load(journal=None, files=None, name="stub"):
    return StubEngine(journal, files, name)
