"""A server as a process that tests can start, ask, and kill."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx

HERE = Path(__file__).parent

QUEUE = 32
"""Jobs that may wait on the server of all tests."""


def wait_until(condition, seconds=120.0, what="the condition"):
    """The first true value of `condition`; polls, because the thing waited for happens in another process."""
    until, pause = time.monotonic() + seconds, 0.005
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            value = condition()
            if value:
                return value
        time.sleep(pause)
        pause = min(0.1, 1.2 * pause)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process with the stub engine, or with a checkpoint, and a client of it."""

    def __init__(self, folder: Path, *, checkpoint: Path | None = None, arguments=(), **settings):
        self.folder, self.checkpoint, self.arguments = folder, checkpoint, arguments
        folder.mkdir(exist_ok=True)
        self.journal = folder / "journal"
        self.settings = {"data": str(folder / "data"), "journal": str(self.journal), "port": free_port(), **settings}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.settings['port']}", timeout=120)
        self.process: subprocess.Popen[bytes] | None = None
        self.gate, self.held = folder / "gate", ""

    @property
    def url(self) -> str:
        return str(self.http.base_url)

    def start(self, *, ready=True, seconds=120.0):
        file = self.folder / "settings.json"
        file.write_text(json.dumps(self.settings))
        with (self.folder / "log").open("ab") as log:
            command = [sys.executable, HERE / "run_server.py", file]
            if self.checkpoint is not None:  # the real thing, as people start it
                port = str(self.settings["port"])
                command = [sys.executable, "-m", "fw_serve.cli", "up", self.checkpoint, "--port", port]
                command += ["--data", self.settings["data"], "--device", "cpu", *self.arguments]
            self.process = subprocess.Popen(command, stderr=log, stdout=log)
        path = "/readyz" if ready else "/livez"
        wait_until(lambda: self._answers(path), seconds, what=f"{path} of {self.folder}")
        return self

    def _answers(self, path) -> bool:
        assert self.process is not None, "not started"
        assert self.process.poll() is None, f"the server ended: {(self.folder / 'log').read_text()[-2000:]}"
        return self.http.get(path).status_code == 200

    @property
    def pid(self) -> int:
        assert self.process is not None, "not started"
        return self.process.pid

    def kill(self):
        assert self.process is not None, "not started"
        self.process.kill()
        self.process.wait()

    def terminate(self) -> int:
        """Ask it to end; returns the exit code."""
        assert self.process is not None, "not started"
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.terminate()
        self.http.close()

    def create(self, prompt, image, **fields):
        return self.http.post("/v1/videos", data={"prompt": prompt, **fields}, files={"input_reference": image})

    def get(self, video_id):
        return self.http.get(f"/v1/videos/{video_id}").json()

    def finished(self, video_id, seconds=120.0):
        def done():
            video = self.get(video_id)
            return video if video["status"] in ("completed", "failed") else None

        return wait_until(done, seconds, f"the end of {video_id}")

    def lines(self) -> list[str]:
        return self.journal.read_text().splitlines() if self.journal.exists() else []

    def worker_pids(self) -> list[int]:
        """Workers of this server, by what the kernel says of its children."""
        task = Path(f"/proc/{self.pid}/task")
        children = [int(pid) for file in task.glob("*/children") for pid in file.read_text().split()]
        return [pid for pid in children if b"fw_serve.worker" in _command_of(pid)]


def _command_of(pid: int) -> bytes:
    """Command line of a process; empty once it has ended."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
