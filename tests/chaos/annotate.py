"""Kill -9 of annotation: `python -m tests.chaos.annotate` kills workers and drivers at random instants and compares.

Every trial annotates the same small videos, is killed at a random instant (one of its worker processes, or the driver),
is started again until it is done, and must end with the bytes of a run that nothing happened to. `--clips N` instead
sends N clips through one run and shows that its memory does not grow.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos.wall_videos import write_wall_videos

VIDEOS, FRAMES, CLIP = 6, 45, 9


def main() -> int:
    """Run the trials asked for; the exit code is the number of trials that went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.annotate", description=__doc__)
    parser.add_argument("--engines", nargs="+", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--kills", type=int, default=5, help="of a worker, and as many of the driver")
    parser.add_argument("--clips", type=int, default=0, help="instead: so many clips through one run, memory watched")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if options.clips:
            return sum(not flat_memory(Path(folder) / engine, engine, options.clips) for engine in options.engines)
        raw, truth = write_wall_videos(Path(folder), videos=VIDEOS, frames=FRAMES)
        wrong = 0
        for engine in options.engines:
            straight = Path(folder) / f"{engine}-straight"
            starting, working = undisturbed(command(raw, truth, straight, engine), engine)
            wanted = fingerprint(straight)
            print(f"{engine}: undisturbed: workers after {starting:.1f} s, end {working:.1f} s later", flush=True)
            rng = random.Random(options.seed)
            for victim in ("worker", "driver"):
                killed = tries = 0
                while killed < options.kills:
                    tries += 1
                    out = Path(folder) / f"{engine}-{victim}-{tries}"
                    delay = rng.uniform(0.0, 0.95) * working + (starting if victim == "driver" else 0.0)
                    hit, story = disturbed(command(raw, truth, out, engine), engine, victim, delay)
                    killed += hit
                    same = fingerprint(out) == wanted
                    wrong += not same
                    print(f"{engine}: {victim} {killed}: {story}: {'same bytes' if same else 'DIFFERENT'}", flush=True)
        print(f"{wrong} went wrong")
        return wrong


def command(raw: Path, truth: Path, out: Path, engine: str, clip: int = CLIP) -> list[str]:
    """The annotate command with the oracle, two workers."""
    words = ["annotate", str(raw), str(out), "--geometry", "oracle", "--truth", str(truth), "--frames", str(clip)]
    words += ["--engine", engine, "--workers", "2", "--retry-failed"]
    words += ["--cpus-per-worker", "0.5"] if engine == "ray" else []
    return [sys.executable, "-m", "fw_data.cli", *words]


def undisturbed(words: list[str], engine: str) -> tuple[float, float]:
    """Run to the end; seconds until the first worker is there, and from then on."""
    begun = time.monotonic()
    run = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _await_workers(run, engine)
    there = time.monotonic()
    if run.wait() != 0:
        raise SystemExit(f"the undisturbed run ended with {run.returncode}")
    return there - begun, time.monotonic() - there


def _await_workers(run: "subprocess.Popen[bytes]", engine: str) -> None:
    while run.poll() is None and not workers_of(run.pid, engine):
        time.sleep(0.1)


def disturbed(words: list[str], engine: str, victim: str, delay: float) -> tuple[bool, str]:
    """Start, kill after `delay` seconds (of work, if a worker), start again to the end: was it hit, and the story."""
    hit = False
    run = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if victim == "worker":
        _await_workers(run, engine)
    try:
        code = run.wait(delay)
        story = f"it was done before {delay:.1f} s"
    except subprocess.TimeoutExpired:
        if victim == "worker":
            pids = workers_of(run.pid, engine)
            for pid in pids[:1]:
                os.kill(pid, signal.SIGKILL)
            hit = bool(pids)
            story = f"killed {len(pids[:1])} of {len(pids)} at {delay:.1f} s"
        else:
            run.kill()
            hit = True
            story = f"killed at {delay:.1f} s"
        code = run.wait(300)
    starts = 1
    while code != 0 and starts < 5:
        starts += 1
        code = subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode
    return hit, f"{story}, {starts} starts, exit code {code}"


def workers_of(pid: int, engine: str) -> list[int]:
    """Worker processes of a driver: its spawned children, or its Ray actors."""
    found, seen = [], {pid}
    table = [(int(entry.name), *_parent_and_words(entry)) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    for _ in range(4):  # generations: driver, raylet, worker
        seen |= {child for child, parent, _ in table if parent in seen}
    mark = "ray::_Actor" if engine == "ray" else "multiprocessing.spawn"
    found = [child for child, _, words in table if child in seen and mark in words]
    return sorted(found)


def _parent_and_words(entry: Path) -> tuple[int, str]:
    try:
        status = (entry / "stat").read_text().rpartition(")")[2].split()
        return int(status[1]), (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:  # it ended meanwhile
        return 0, ""


def fingerprint(out: Path) -> str:
    """Hash of every shard, the manifest and the list of refusals."""
    digest = hashlib.sha256()
    for path in [*sorted((out / "shards").iterdir()), out / "manifest.parquet", out / "refusals.jsonl"]:
        digest.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def flat_memory(folder: Path, engine: str, clips: int) -> bool:
    """One run over many clips; true when it ends well and memory in its last quarter is like in its second."""
    per_video = 25
    raw, truth = write_wall_videos(folder, videos=-(-clips // per_video), frames=per_video * CLIP)
    begun = time.monotonic()
    run = subprocess.Popen(command(raw, truth, folder / "out", engine), stdout=subprocess.DEVNULL)
    samples: list[float] = []
    while run.poll() is None:
        pids = [run.pid, *workers_of(run.pid, engine)]
        samples.append(sum(_resident_mib(pid) for pid in pids))
        time.sleep(0.5)
    quarter = len(samples) // 4
    second, last = (sorted(part)[len(part) // 2] for part in (samples[quarter : 2 * quarter], samples[-quarter:-2]))
    seconds = time.monotonic() - begun
    print(
        f"{engine}: {clips} clips in {seconds:.0f} s, exit code {run.returncode}, resident memory of driver and "
        f"workers {second:.0f} MiB in the second quarter, {last:.0f} in the last ({(last / second - 1) * 100:+.1f} %)",
        flush=True,
    )
    return run.returncode == 0 and last < 1.1 * second


def _resident_mib(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        return 0.0


if __name__ == "__main__":
    sys.exit(main())
