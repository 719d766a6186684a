"""Stores on both databases, an application in this process, and servers as processes."""

import contextlib
import io
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from PIL import Image
from tests.stub_server.server_process import QUEUE, Server, wait_until


@pytest.fixture(scope="session")
def image() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (96, 64), (200, 120, 40)).save(out, "PNG")
    return out.getvalue()


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

    def make(folder, *, seconds=120.0, **settings) -> Server:
        servers.append(Server(folder, **settings))
        return servers[-1].start(seconds=seconds)

    yield make
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """One server for all tests that leave it as it was: with a worker that is free, and no job that waits."""
    server = Server(tmp_path_factory.mktemp("server"), limits={"upload_bytes": 2_000_000, "queue": QUEUE}).start()
    yield server
    server.stop()


@pytest.fixture
def full_server(server, image, tmp_path):
    """The server of all tests with one job, `held`, that runs until `gate` is made, and room for QUEUE others.

    However the test ends, the gate is made: a held job would block the worker for the tests after it.
    """
    wait_until(lambda: not _waiting(server), what="an empty queue")
    server.gate = tmp_path / "gate"
    server.held = server.create(f"hold={server.gate}", image).json()["id"]
    wait_until(lambda: server.get(server.held)["status"] == "in_progress")
    yield server
    server.gate.touch()
    wait_until(lambda: not _waiting(server), what="an empty queue")


def _waiting(server) -> list[str]:
    lines = server.http.get("/metrics").text.splitlines()
    states = [line for line in lines if line.startswith(('fw_jobs{status="queued"', 'fw_jobs{status="in_progress"'))]
    assert len(states) == 2
    return [line for line in states if not line.endswith(" 0.0")]


@pytest.fixture
def postgres(postgres_server):
    """URL of an empty database."""
    import psycopg

    with psycopg.connect(postgres_server.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres_server


@pytest.fixture(scope="session")
def postgres_server():
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
