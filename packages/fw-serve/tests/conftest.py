"""Stores on both databases, an application in this process, and servers as processes."""

import contextlib
import io
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

HERE = Path(__file__).parent
sys.path.append(str(HERE))  # stub_engine and this file are modules for the tests


@pytest.fixture(scope="session")
def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (96, 64), (200, 120, 40)).save(out, "PNG")
    return out.getvalue()


def wait_until(condition, seconds=120.0, what="the condition"):
    """The first true value of `condition`; polls, because the thing waited for happens in another process."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(httpx.TransportError):
            value = condition()
            if value:
                return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process and a client of it."""

    def __init__(self, folder: Path, **settings):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.journal = folder / "journal"
        self.settings = {"data": str(folder / "data"), "journal": str(self.journal), "port": free_port(), **settings}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.settings['port']}", timeout=30)
        self.process = None

    @property
    def url(self) -> str:
        return str(self.http.base_url)

    def start(self, *, ready=True):
        file = self.folder / "settings.json"
        file.write_text(json.dumps(self.settings))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([sys.executable, HERE / "run_server.py", file], stderr=log, stdout=log)
        path = "/readyz" if ready else "/livez"
        wait_until(lambda: self.http.get(path).status_code == 200, what=f"{path} of {self.folder}")
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        self.http.close()

    def create(self, prompt, picture, **fields):
        return self.http.post("/v1/videos", data={"prompt": prompt, **fields}, files={"input_reference": picture})

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
        task = Path(f"/proc/{self.process.pid}/task")
        children = [int(pid) for file in task.glob("*/children") for pid in file.read_text().split()]
        return [pid for pid in children if b"fw_serve.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def make_server(tmp_path):
    servers = []

    def make(name="server", **settings) -> Server:
        servers.append(Server(tmp_path / name, **settings))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def module_server():
    """Starts a server that lasts as long as a module's tests."""
    servers = []

    def make(folder, **settings) -> Server:
        servers.append(Server(folder, **settings))
        return servers[-1].start()

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests that leave it as it was."""
    server = Server(tmp_path_factory.mktemp("server"), limits={"upload_bytes": 2_000_000}).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def postgres():
    """URL of a PostgreSQL server of our own, without a password, on a socket."""
    binaries = [Path(found).parent for found in (shutil.which("initdb"),) if found]
    binaries += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if not binaries:
        pytest.skip("PostgreSQL is not installed (the Debian package is postgresql)")
    pytest.importorskip("psycopg", reason="install fw-serve[postgres]")
    folder = Path(tempfile.mkdtemp(prefix="fw-pg-"))
    who = {}
    if os.getuid() == 0:  # it refuses to run as root
        name = next((name for name in ("postgres", "nobody") if _exists(name)), None)
        if name is None:
            pytest.skip("PostgreSQL does not run as root, and there is no user postgres or nobody")
        entry = pwd.getpwnam(name)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
        who = {"user": entry.pw_uid, "group": entry.pw_gid}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **who}
    data = folder / "data"
    subprocess.run([binaries[0] / "initdb", "-D", data, "-U", "fw", "-A", "trust", "--no-sync"], check=True, **quiet)
    command = [binaries[0] / "postgres", "-D", data, "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
    process = subprocess.Popen(command, **quiet)
    url = f"postgresql+psycopg://fw@/postgres?host={folder}"
    try:
        import psycopg

        def answers():
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(f"host={folder} user=fw dbname=postgres").close()
                return True
            return False

        wait_until(answers, what="PostgreSQL")
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def _exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
