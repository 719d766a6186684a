"""What a service meets in a year, in minutes: kills, floods, thousands of jobs, thousands of odd requests.

    python -m tests.chaos.serve kill-service   kill -9 with 50 jobs waiting and one running: none lost, none done twice
    python -m tests.chaos.serve kill-worker    kill -9 in mid-step: 1,000 polls are answered meanwhile
    python -m tests.chaos.serve oom            10 injected out-of-memory errors: each fails alone
    python -m tests.chaos.serve cancel         20 cancellations and deletions: each within a step
    python -m tests.chaos.serve flood          200 creations at once on a queue of 32
    python -m tests.chaos.serve soak           2,000 jobs: memory and open files must not grow
    python -m tests.chaos.serve fuzz           Schemathesis, all checks, 5,000 cases

Each starts a server with the stub engine of tests/stub_server. Exit code 1 if something is not as promised.
`python -m benchmarks.serve` measures.
"""

import argparse
import io
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image
from tests.stub_server.schema_fuzz import fuzz
from tests.stub_server.server_process import Server, wait_until
from tests.stub_server.stub_engine import FILES

BATCH = 25
"""Jobs of the soak that are queued at a time."""
MAX_GROWTH_MB = 5.0
MAX_FLOOD_MB = 20.0


def image() -> bytes:
    """A small PNG."""
    out = io.BytesIO()
    Image.new("RGB", (96, 64), (200, 120, 40)).save(out, "PNG")
    return out.getvalue()


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def open_files(pid: int) -> int:
    """Open files of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def hold(server: Server, name: str) -> tuple[str, Path]:
    """A job that runs until a file is made; returns its id and the file."""
    gate = server.folder / name
    video = server.create(f"{name} hold={gate}", image()).json()["id"]
    wait_until(lambda: server.get(video)["status"] == "in_progress")
    return video, gate


def kill_service(server: Server, times: int) -> list[str]:
    """kill -9 of the service with 50 jobs that wait and one that runs; returns what was lost or done twice."""
    problems = []
    for number in range(times):
        held, gate = hold(server, f"kill{number}")
        ids = [held] + [server.create(f"kill{number}.{n}", image()).json()["id"] for n in range(50)]
        workers = server.worker_pids()
        server.kill()
        began = time.perf_counter()
        gate.touch()
        server.start()
        while any(Path(f"/proc/{pid}").exists() for pid in workers):  # they end with the service that watched them
            time.sleep(0.01)
        partial = [v for v in ids if server.http.get(f"/v1/videos/{v}/content").status_code not in (200, 409)]
        ends = [server.finished(video) for video in ids]
        done = [line for line in server.lines() if line.startswith(f"end kill{number}")]
        whole = [v for v in ids if len(server.http.get(f"/v1/videos/{v}/content").content) == len(FILES["video.mp4"])]
        attempts = [end["attempts"] for end in ends]
        print(
            f"kill {number}: {sum(end['status'] == 'completed' for end in ends)} of 51 completed, {len(done)} ends, "
            f"attempts of the running one {attempts[0]}, {time.perf_counter() - began:.1f} s",
            flush=True,
        )
        if {end["status"] for end in ends} != {"completed"} or partial or len(whole) != 51:
            problems.append(f"kill {number}: jobs or files are missing")
        if len(done) != len(set(done)) or len(done) != 51 or attempts != [1] * 51:
            problems.append(f"kill {number}: {len(done)} ends of 51 jobs, attempts {attempts}")
    return problems


def kill_worker(server: Server, times: int) -> list[str]:
    """kill -9 of the worker in mid-step, and 1,000 polls while it is away; returns what failed."""
    problems = []
    for number in range(times):
        video, gate = hold(server, f"worker{number}")
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGKILL)
        answers = [server.http.get(f"/v1/videos/{video}").status_code for _ in range(1000)]
        gate.touch()
        end = server.finished(video)
        print(f"worker {number}: {answers.count(200)} of 1000 polls answered, then {end['status']}", flush=True)
        if set(answers) != {200} or (end["status"], end["attempts"]) != ("completed", 2):
            problems.append(
                f"worker {number}: answers {set(answers)}, {end['status']} after {end['attempts']} attempts"
            )
    return problems


def out_of_memory(server: Server, times: int) -> list[str]:
    """Injected OOM: that job fails, the next one is made by the same worker; returns what was otherwise."""
    before, kept = server.worker_pids(), 0
    for _ in range(times):
        bad, good = (server.create(prompt, image()).json()["id"] for prompt in ("oom", "good"))
        failed, done = server.finished(bad), server.finished(good)
        code = (failed["error"] or {}).get("code")
        kept += (code, done["status"], server.worker_pids()) == ("out_of_memory", "completed", before)
    print(f"out of memory: {kept} of {times} failed alone")
    return [] if kept == times else [f"{times - kept} of {times} took something with them"]


def cancel(server: Server, times: int) -> list[str]:
    """Cancelling and deleting in mid-step; returns what went on for more than a step."""
    stopped, slowest = 0, 0.0
    before = server.worker_pids()
    for number in range(times):
        prompt = f"cancel{number} steps=1000 pause=0.02"
        video = server.create(prompt, image()).json()["id"]
        wait_until(lambda prompt=prompt: f"step {prompt}" in server.lines())
        began = time.perf_counter()
        if number % 2:
            server.http.delete(f"/v1/videos/{video}")
        else:
            server.http.post(f"/v1/videos/{video}/cancel")
        done = server.lines().count(f"step {prompt}")
        server.finished(server.create("good", image()).json()["id"])
        slowest = max(slowest, time.perf_counter() - began)
        steps = server.lines().count(f"step {prompt}") - done  # the one at work, and one whose report was on its way
        stopped += steps <= 2 and f"end {prompt}" not in server.lines() and server.worker_pids() == before
    print(f"cancelled: {stopped} of {times} within a step; at most {slowest:.2f} s to the end of the next job")
    return [] if stopped == times else [f"{times - stopped} of {times} went on"]


def flood(server: Server, times: int) -> list[str]:
    """200 creations at once on a queue of 32; returns what was taken beyond it, and what memory it took."""
    problems = []
    for number in range(times + 1):
        _, gate = hold(server, f"flood{number}")
        before = memory_mb(server.pid)
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda n: server.create(f"job{n}", image()), range(200)))
        codes = [answer.status_code for answer in answers]
        told = sum("retry-after" in answer.headers for answer in answers if answer.status_code == 429)
        grown = memory_mb(server.pid) - before
        gate.touch()
        wait_until(lambda: 'fw_jobs{status="queued"} 0.0' in server.http.get("/metrics").text)
        if number == 0:
            continue  # threads and connections are made once
        print(f"flood: {codes.count(200)} taken, {codes.count(429)} refused, {told} told when, {grown:+.1f} MB")
        if (codes.count(200), told) != (32, 168) or grown > MAX_FLOOD_MB:
            problems.append(f"{codes.count(200)} taken, {told} told when to come again, {grown:+.1f} MB")
    return problems


def soak(server: Server, jobs: int) -> list[str]:
    """Run many jobs; returns what grew."""
    content, pid = image(), server.pid
    readings = []
    for first in range(0, jobs, BATCH):
        batch = [
            server.create(f"steps=1 number {first + n}", content).json()["id"] for n in range(min(BATCH, jobs - first))
        ]
        assert server.finished(batch[-1])["status"] == "completed"
        for video in batch:
            assert server.finished(video)["status"] == "completed"
            server.http.delete(f"/v1/videos/{video}")
        if first // BATCH % max(1, jobs // BATCH // 20) == 0:
            readings.append((memory_mb(pid), open_files(pid)))
            print(f"{first + len(batch)}: {readings[-1][0]:.1f} MB, {readings[-1][1]} files", flush=True)
    settled = readings[2:] or readings
    growth = memory_mb(pid) - settled[0][0]
    files = open_files(pid) - settled[0][1]
    print(json.dumps({"jobs": jobs, "growth_mb": round(growth, 2), "files_more": files}))
    problems = [f"memory grew by {growth:.1f} MB"] if growth > MAX_GROWTH_MB else []
    left = sum(1 for _ in (server.folder / "data" / "results").glob("*/*"))
    return problems + ([f"{files} more open files"] if files > 3 else []) + ([f"{left} results left"] if left else [])


def many_requests(server: Server, cases: int) -> list[str]:
    """Let Schemathesis try everything that the description allows and forbids; returns what it found."""
    operations = sum(len(path) for path in server.http.get("/openapi.json").json()["paths"].values())
    video = server.create("x", image()).json()["id"]
    server.finished(video)
    made, problems, report = fuzz(server, video, max(10, 5 * cases // (2 * operations)))
    print(report)
    return problems + ([f"only {made} cases of {cases}"] if made < cases else [])


CHAOS: dict[str, tuple[Callable[[Server, int], list[str]], int, int]] = {
    "kill-service": (kill_service, 3, 64),
    "kill-worker": (kill_worker, 3, 64),
    "oom": (out_of_memory, 10, 64),
    "cancel": (cancel, 20, 64),
    "flood": (flood, 3, 32),
    "soak": (soak, 2000, 64),
    "fuzz": (many_requests, 5000, 100_000),
}
"""What can be done, how often it is by default, and how many jobs the queue holds."""


def main() -> int:
    """Run one of them, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.serve", description="Chaos around fw-serve.")
    parser.add_argument("what", choices=[*CHAOS, "all"])
    parser.add_argument("--times", type=int, help="how often, how many jobs (soak), how many cases (fuzz)")
    options = parser.parse_args()
    problems = []
    for name in CHAOS if options.what == "all" else [options.what]:
        act, times, queue = CHAOS[name]
        with tempfile.TemporaryDirectory() as folder:
            server = Server(Path(folder) / "server", limits={"queue": queue}, lease_s=2.0)
            try:
                problems += [f"{name}: {found}" for found in act(server.start(), options.times or times)]
            finally:
                server.stop()
    for problem in problems:
        print(f"not as promised: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
