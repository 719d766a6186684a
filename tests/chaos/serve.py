"""Hours of use in minutes: thousands of odd requests, thousands of jobs, and the figures of the service.

    python -m tests.chaos.serve figures            time to ready, memory, create and poll times
    python -m tests.chaos.serve soak --jobs 2000   stub jobs; memory and open files must not grow
    python -m tests.chaos.serve fuzz --cases 5000  Schemathesis against the description, all checks

Each starts a server with the stub engine of packages/fw-serve/tests. Exit code 1 if something is not as promised.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

from PIL import Image

TESTS = Path(__file__).parents[2] / "packages" / "fw-serve" / "tests"
sys.path.append(str(TESTS))

from server_process import Server, wait_until  # type: ignore[import-not-found]  # noqa: E402

BATCH = 25
"""Jobs of the soak that are queued at a time."""
MAX_GROWTH_MB = 5.0
MAX_READY_S = 2.5
MAX_MEMORY_MB = 120.0
MAX_CREATE_MS = 15.0
MAX_POLL_MS = 3.0

FUZZ_SETTINGS = """
# Camera paths and pictures obey rules that no schema can say, so what fits the schema may still be 400.
[checks.positive_data_acceptance]
expected-statuses = [200, 400, 401, 403, 404, 409, 413, 429, 503]
# Requests about a video that exists; deletions are of videos that do not.
[[operations]]
include-method = "GET"
include-path-regex = "video_id"
parameters = { video_id = "VIDEO" }
[[operations]]
include-method = "POST"
include-path-regex = "video_id"
parameters = { video_id = "VIDEO" }
"""


def picture() -> bytes:
    """A small PNG."""
    out = io.BytesIO()
    Image.new("RGB", (96, 64), (200, 120, 40)).save(out, "PNG")
    return out.getvalue()


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def cpu_s(pid: int) -> float:
    """Processor time of a process: what the times would be on an idle machine, at least."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(pid: int) -> int:
    """Open files of a process."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def figures(server: Server, rounds: int) -> list[str]:
    """Measure the promises of the issue; returns what was not kept."""
    began = time.perf_counter()
    server.start(ready=False)
    live_s, live_cpu_s = time.perf_counter() - began, cpu_s(server.pid)
    wait_until(lambda: server.http.get("/readyz").status_code == 200)
    content = picture()
    server.create("steps=1", content)
    creates, polls = [], []
    video = server.create("steps=1", content).json()
    server.finished(video["id"])
    used = cpu_s(server.pid)
    for _ in range(rounds):
        server.get(video["id"])
    cpu = {"ready_cpu_s": live_cpu_s, "poll_cpu_ms": 1000 * (cpu_s(server.pid) - used) / rounds}
    for _ in range(rounds):
        began = time.perf_counter()
        video = server.create("steps=1", content).json()
        creates.append(1000 * (time.perf_counter() - began))
        for _ in range(5):
            began = time.perf_counter()
            server.get(video["id"])
            polls.append(1000 * (time.perf_counter() - began))
        server.finished(video["id"])
    measured = {
        "ready_s": (live_s, MAX_READY_S),
        "memory_mb": (memory_mb(server.pid), MAX_MEMORY_MB),
        "create_p50_ms": (median(creates), MAX_CREATE_MS),
        "poll_p50_ms": (median(polls), MAX_POLL_MS),
    }
    tails = {"create_p99_ms": quantiles(creates, n=100)[98], "poll_p99_ms": quantiles(polls, n=100)[98]}
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    print(
        json.dumps(
            {name: round(value, 2) for name, (value, _) in measured.items()} | tails | cpu | {"load_per_core": load}
        )
    )
    return [f"{name} is {value:.1f}, promised {limit}" for name, (value, limit) in measured.items() if value > limit]


def soak(server: Server, jobs: int) -> list[str]:
    """Run many jobs; returns what grew."""
    server.start()
    content, pid = picture(), server.pid
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


def fuzz(server: Server, cases: int) -> list[str]:
    """Let Schemathesis try everything that the description allows and forbids."""
    server.start()
    described = server.http.get("/openapi.json").json()
    operations = sum(len(path) for path in described["paths"].values())
    video = server.create("x", picture()).json()["id"]
    server.finished(video)
    (server.folder / "schemathesis.toml").write_text(FUZZ_SETTINGS.replace("VIDEO", video))
    examples = str(max(10, 2 * cases // operations))  # some operations have few different requests
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        "--config-file", str(server.folder / "schemathesis.toml"), "run", f"{server.url}/openapi.json",
        "--checks", "all", "--max-examples", examples, "--phases", "examples,coverage,fuzzing",
        "--exclude-path-regex", "/events$", "--request-timeout", "30",
    ]  # fmt: skip
    done = subprocess.run(command, check=False)
    log = (server.folder / "log").read_text()
    return (["Schemathesis found something"] if done.returncode else []) + (
        ["the server wrote a traceback"] if "Traceback" in log else []
    )


def main() -> int:
    """Run one of the three."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.serve", description="Chaos and figures of fw-serve.")
    parser.add_argument("what", choices=["figures", "soak", "fuzz"])
    parser.add_argument("--jobs", type=int, default=2000, help="jobs of the soak")
    parser.add_argument("--cases", type=int, default=5000, help="about how many requests Schemathesis makes up")
    parser.add_argument("--rounds", type=int, default=100, help="creations that are timed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "server", limits={"queue": 100_000})
        try:
            if options.what == "figures":
                problems = figures(server, options.rounds)
            elif options.what == "soak":
                problems = soak(server, options.jobs)
            else:
                problems = fuzz(server, options.cases)
        finally:
            server.stop()
    for problem in problems:
        print(f"not as promised: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
