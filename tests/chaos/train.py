"""Kill -9 of training: `python -m tests.chaos.train` kills runs at random instants, saves included, and compares.

Every trial starts the same small stage 2, is killed (odd trials while a checkpoint is being written), is started again
with the same command until it is done, and must end with the bytes of a run that nothing happened to. With torchrun and
Ray every other trial kills one worker, which the launcher has to replace, and the rest kill everything.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.chaos.annotate import command as annotate_command
from tests.chaos.wall_videos import write_wall_videos

STEPS, SAVE_EVERY = 24, 2
WORKERS = {"torchrun": "fw_train.cli", "ray": "ray::RayTrainWorker"}
LIMIT_S = 600


def main() -> int:
    """Run the trials asked for; the exit code is the number of trials that went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.train", description=__doc__)
    parser.add_argument("--launcher", choices=("local", "torchrun", "ray"), default="local")
    parser.add_argument("--ranks", type=int, default=1, help="processes; more than one needs torchrun or ray")
    parser.add_argument("--shard", choices=("none", "full"), default="none", help="compute.shard of the run")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        words = prepare(Path(folder), options)
        begun = time.monotonic()
        subprocess.run([*words, str(Path(folder) / "straight")], check=True, stdout=subprocess.DEVNULL)
        wanted = fingerprint(Path(folder) / "straight")
        print(f"{options.launcher}: undisturbed run {time.monotonic() - begun:.1f} s, {wanted[:12]}", flush=True)
        rng = random.Random(options.seed)
        wrong = 0
        for trial in range(options.kills):
            out = Path(folder) / str(trial)
            worker = options.launcher != "local" and trial % 2 == 0
            story = disturbed([*words, str(out)], out, options.launcher, rng, saving=trial % 4 in (1, 2), worker=worker)
            same = fingerprint(out) == wanted
            wrong += not same
            print(f"{trial + 1}: {story}: {'same bytes' if same else 'DIFFERENT'}", flush=True)
        print(f"{options.kills - wrong} of {options.kills} ended in the same bytes")
        return wrong


def prepare(folder: Path, options: argparse.Namespace) -> list[str]:
    """A dataset, a small model to start from, and the command of the run, up to the value of --out."""
    from fw_model.config import preset
    from fw_train.config.schema import ClipConfig, TrainConfig
    from fw_train.model_bundle import export, load_bundle

    raw, truth = write_wall_videos(folder, videos=6, frames=9)
    subprocess.run(annotate_command(raw, truth, folder / "data", "local"), check=True, stdout=subprocess.DEVNULL)
    tiny = preset("tiny")
    assert tiny.camera is not None
    small = replace(
        tiny,
        name="small",
        video=replace(tiny.video, blocks=2),
        pcb_blocks=1,
        geometry=replace(tiny.geometry, dpt_taps=(0, 0, 0, 0)),
        camera=replace(tiny.camera, adapter_blocks=2),
    )
    model, file, init = folder / "small.json", folder / "run.toml", folder / "init"
    model.write_text(small.to_json(), encoding="utf-8")
    clip = ClipConfig(frames=5, height=32, width=48)
    base = TrainConfig(stage="base", model=str(model), clip=clip)
    export(load_bundle(base), init, trained={}, entry={"stage": "stage1", "steps": 0})
    file.write_text(
        f'data = "{folder / "data"}"\nmodel = "{model}"\ninit = "{init}"\nsteps = {STEPS}\nbatch = 2\n'
        "clip.frames = 5\nclip.height = 32\nclip.width = 48\nclip.validate_on = 1\nnoise.validation = [0.5]\n"
        "optim.ema = 0.9\noptim.lr = 1e-3\ndropout.cross_branch = 0.2\n"
        f"every.log = 1\nevery.checkpoint = {SAVE_EVERY}\nevery.validate = {STEPS}\nsampling.num_inference_steps = 2\n"
        f'compute.threads = 1\ncompute.device = "cpu"\ncompute.shard = "{options.shard}"\n',
        encoding="utf-8",
    )
    how = ["--launcher", options.launcher, "--workers", str(options.ranks), "--go-on"]
    return [sys.executable, "-m", "fw_train.cli", "stage2", str(file), *how, "--out"]


def disturbed(words: list[str], out: Path, launcher: str, rng: random.Random, *, saving: bool, worker: bool) -> str:
    """Start, kill at a random instant, start again until it ends by itself; returns what happened."""
    reached = during_a_save(out, rng) if saving else between_two_steps(out, rng)
    run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + LIMIT_S
    while run.poll() is None and not reached():
        assert time.monotonic() < deadline, f"{out}: nothing happened for {LIMIT_S} s"
        time.sleep(0.0005)
    where = "while saving" if saving else "between saves"
    if run.poll() is not None:
        story = f"it ended by itself, exit code {run.returncode}, before it could be killed {where}"
    elif worker:
        victims = workers_of(run.pid, WORKERS[launcher])
        victim = rng.choice(victims)
        os.kill(victim, signal.SIGKILL)
        story = f"killed 1 of {len(victims)} workers at step {logged(out)} {where}"
    else:
        story = f"killed everything at step {logged(out)} {where}"
        for pid in [*workers_of(run.pid, ""), run.pid]:
            os.kill(pid, signal.SIGKILL)
    code, starts = run.wait(LIMIT_S), 1
    while code != 0 and starts < 5:
        starts += 1
        code = subprocess.run(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False, timeout=LIMIT_S
        ).returncode
    return f"{story}, {starts} starts, exit code {code}"


def between_two_steps(out: Path, rng: random.Random) -> Callable[[], bool]:
    """True from a random time after a random step was logged."""
    step, extra = rng.randrange(1, STEPS - 1), rng.uniform(0, 0.3)
    seen: list[float] = []

    def reached() -> bool:
        if not seen and logged(out) >= step:
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] >= extra

    return reached


def during_a_save(out: Path, rng: random.Random) -> Callable[[], bool]:
    """True while the checkpoint of a random step is being written, when a random number of its files is begun."""
    step, files = rng.randrange(SAVE_EVERY, STEPS, SAVE_EVERY), rng.randrange(0, 5)
    partial = out / "checkpoints" / f".partial-step-{step:08d}"
    whole = out / "checkpoints" / f"step-{step:08d}"
    return lambda: (partial.is_dir() and len(list(partial.iterdir())) >= files) or whole.is_dir()


def logged(out: Path) -> int:
    """Steps in the log of a run."""
    try:
        rows = (out / "log.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return 0
    return max((row["step"] for row in map(json.loads, rows) if row.get("split") == "train"), default=0)


def workers_of(pid: int, mark: str) -> list[int]:
    """Descendants of a process whose command line has `mark` in it."""
    table = [(int(entry.name), *_parent_and_words(entry)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    seen = {pid}
    for _ in range(5):  # generations: torchrun or driver, raylet, worker
        seen |= {child for child, parent, _ in table if parent in seen}
    return sorted(child for child, _, words in table if child in seen - {pid} and mark in words)


def _parent_and_words(entry: Path) -> tuple[int, str]:
    try:
        status = (entry / "stat").read_text().rpartition(")")[2].split()
        return int(status[1]), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it ended meanwhile
        return 0, ""


def fingerprint(out: Path) -> str:
    """Hash of the last checkpoint (weights, optimizer, average) and of the exported weights; of nothing if not done."""
    digest = hashlib.sha256()
    last = out / "checkpoints" / f"step-{STEPS:08d}"
    for path in [*sorted(last.glob("*.safetensors")), out / "export" / "model.safetensors"]:
        if path.is_file():
            digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
