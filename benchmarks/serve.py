"""The benchmark of the service on SQLite: `python -m benchmarks.serve`, for docs/serve-behind-a-proxy.md.

Starts `fw-serve up` as people do, for the time to the first answer, and a server with the stub engine of
tests/stub_server, for creations, polls and memory, and for the studio's first paint where Chromium is. Writes
serve.json into an output folder; exits 1 if a target is missed. Wall time needs an idle machine; processor time, which
is written beside it, does not.
"""

import argparse
import http.client
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from tests.chaos.serve import image, memory_mb
from tests.stub_server.server_process import Server, free_port, wait_until

TARGETS = {
    "ready_s": 2.5,
    "memory_mb": 120.0,
    "create_p50_ms": 15.0,
    "create_p99_ms": 60.0,
    "poll_p50_ms": 3.0,
    "crowd_poll_p50_ms": 15.0,
    "studio_paint_ms": 1000.0,
}
"""Largest values that are good enough."""
BARE = """
import sys, uvicorn
from fastapi import FastAPI
app = FastAPI()
@app.get("/")
def root():
    return {"status": "ok"}
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""
"""A program with one route, for comparison."""
POLLS = 3
"""Polls of the job that runs, and of one that waits, for every creation."""


def cpu_s(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start(folder: Path, starts: int) -> dict[str, float]:
    """Seconds from the command to the first answer of the process that answers requests: the median of some starts."""
    seconds, processor = [], []
    for number in range(starts):
        port = free_port()
        command = [sys.executable, "-m", "fw_serve.cli", "up", "no/checkpoint", "--only", "api", "--port", str(port)]
        began = time.perf_counter()
        process = subprocess.Popen([*command, "--data", str(folder / f"start{number}")], stdout=subprocess.DEVNULL)
        try:
            with httpx.Client() as client:
                ask = partial(client.get, f"http://127.0.0.1:{port}/livez")
                wait_until(lambda ask=ask: ask().status_code == 200)
            seconds.append(time.perf_counter() - began)
            processor.append(cpu_s(process.pid))
        finally:
            process.terminate()
            process.wait()
    return {"ready_s": median(seconds), "ready_cpu_s": median(processor)}


class Caller:
    """One kept connection and requests that are written once: the time is that of the service, not of a client."""

    def __init__(self, server: Server) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", server.settings["port"])
        fields, files = {"prompt": "steps=1"}, {"input_reference": image()}
        request = server.http.build_request("POST", "/v1/videos", data=fields, files=files)
        self.body, self.headers = request.read(), {"Content-Type": request.headers["Content-Type"]}

    def ask(self, method: str, path: str) -> tuple[float, Any]:
        """Milliseconds, and the answer."""
        body, headers = (self.body, self.headers) if method == "POST" else (None, {})
        began = time.perf_counter()
        self.connection.request(method, path, body, headers)
        response = self.connection.getresponse()
        content = response.read()
        took = 1000 * (time.perf_counter() - began)
        assert response.status == 200, content
        return took, json.loads(content)


def answers(server: Server, rounds: int) -> dict[str, float]:
    """Times of creations and polls while a job runs, and what the process holds after them.

    The job that runs waits in its step, as one on a GPU does, so that it takes no time of the processors.
    """
    caller, gate = Caller(server), server.folder / "gate"
    running = server.create(f"hold={gate}", image()).json()["id"]
    wait_until(lambda: server.get(running)["status"] == "in_progress")
    video, creates, polls, processor = {"id": running}, [], [], {"POST": 0.0, "GET": 0.0}
    for number in range(-20, rounds):  # the first ones warm connections and caches
        used = cpu_s(server.pid)
        took, video = caller.ask("POST", "/v1/videos")
        used, between = cpu_s(server.pid) - used, cpu_s(server.pid)
        times = [caller.ask("GET", f"/v1/videos/{name}")[0] for name in (running, video["id"]) for _ in range(POLLS)]
        if number >= 0:
            creates.append(took)
            polls += times
            processor["POST"] += used
            processor["GET"] += cpu_s(server.pid) - between
    held_mb = memory_mb(server.pid)
    gate.touch()
    server.finished(video["id"])
    return {
        "memory_mb": held_mb,
        "create_p50_ms": median(creates),
        "create_p99_ms": quantiles(creates, n=100)[98],
        "create_cpu_ms": 1000 * processor["POST"] / rounds,
        "poll_p50_ms": median(polls),
        "poll_p99_ms": quantiles(polls, n=100)[98],
        "poll_cpu_ms": 1000 * processor["GET"] / len(polls),
    }


def crowd(server: Server, pollers: int, streams: int, seconds: float) -> dict[str, float]:
    """Times of polls by many clients beside many event streams, and of a bare FastAPI route under the same polls."""
    gate = server.folder / "crowd"
    video = server.create(f"hold={gate}", image()).json()["id"]
    wait_until(lambda: server.get(video)["status"] == "in_progress")
    stop = threading.Event()

    def follow() -> None:
        with (
            httpx.Client(base_url=server.url, timeout=60) as http,
            http.stream("GET", f"/v1/videos/{video}/events") as response,
        ):
            for _ in response.iter_lines():
                if stop.is_set():
                    return

    followers = [threading.Thread(target=follow, daemon=True) for _ in range(streams)]
    for follower in followers:
        follower.start()
    time.sleep(1.0)
    measured = {"crowd_poll_p50_ms": median(polls(server.settings["port"], f"/v1/videos/{video}", pollers, seconds))}
    stop.set()
    gate.touch()
    server.finished(video)
    port = free_port()
    bare = subprocess.Popen([sys.executable, "-c", BARE, str(port)])
    try:
        with httpx.Client() as client:
            wait_until(lambda: client.get(f"http://127.0.0.1:{port}/").status_code == 200)
        measured["bare_poll_p50_ms"] = median(polls(port, "/", pollers, seconds))
    finally:
        bare.terminate()
        bare.wait()
    return measured


def polls(port: int, path: str, clients: int, seconds: float) -> list[float]:
    """Milliseconds of each answer to clients that poll twice a second."""

    def poll(number: int) -> list[float]:
        connection, taken = http.client.HTTPConnection("127.0.0.1", port), []
        time.sleep(0.5 * number / clients)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.perf_counter()
            connection.request("GET", path)
            connection.getresponse().read()
            taken.append(1000 * (time.perf_counter() - began))
            time.sleep(0.5)
        return taken

    with ThreadPoolExecutor(clients) as pool:
        return [took for taken in pool.map(poll, range(clients)) for took in taken]


def first_paint(server: Server, loads: int) -> dict[str, float]:
    """Milliseconds to the studio's first contentful paint in a browser that is running, each with an empty cache."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        print("no Chromium here: the studio's first paint is left out")
        return {}
    from playwright.sync_api import sync_playwright

    paints = []
    with sync_playwright() as starter:
        browser = starter.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(-1, loads):  # the first one starts the browser's own processes
            page = browser.new_context(bypass_csp=True).new_page()  # the policy would forbid what asks for the time
            page.goto(f"http://127.0.0.1:{server.settings['port']}/")
            page.wait_for_function("performance.getEntriesByName('first-contentful-paint').length")
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            page.context.close()
        browser.close()
    return {"studio_paint_ms": median(paints[1:])}


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description="Bench of fw-serve.")
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder of serve.json")
    parser.add_argument("--rounds", type=int, default=100, help="creations that are timed")
    parser.add_argument("--starts", type=int, default=3, help="starts, of the service and of its page, that are timed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        measured = start(Path(name), options.starts)
        server = Server(Path(name) / "server", limits={"queue": 100_000}, lease_s=60.0)
        try:
            measured |= answers(server.start(), options.rounds)
            measured |= crowd(server, 50, 60, 5.0)
            measured |= first_paint(server, options.starts)
        finally:
            server.stop()
    measured = {key: round(value, 2) for key, value in measured.items()}
    measured["load_per_core"] = round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serve.json").write_text(json.dumps(measured, indent=2) + "\n")
    missed = [key for key, target in TARGETS.items() if measured.get(key, 0.0) > target]
    for key, value in measured.items():
        target = f"  (at most {TARGETS[key]:g}{', MISSED' if key in missed else ''})" if key in TARGETS else ""
        print(f"{key:16}{value:10}{target}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
