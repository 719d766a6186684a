"""Attacks on the service, measured: `python -m benchmarks.serve_attacks`, for docs/benchmarks/serving.md.

Starts a server with the stub engine of tests/stub_server, attacks it from other processes, and asks it meanwhile as
another client would. Quiet and attacked rounds alternate, so that other programs on the machine slow both alike. Writes
serve_attacks.json into an output folder.
"""

import argparse
import http.client
import io
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx
from PIL import Image
from tests.chaos.serve import memory_mb
from tests.stub_server.server_process import Server

from benchmarks.serve import cpu_s
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.store import JobStore

IMAGES, IMAGE_SIZE = 80, (7680, 5200)
"""Number and size (40 megapixels) of the images that one key sends at once."""
UPLOADS, UPLOAD_BYTES = 16, 24_000_000
"""Number and size of the bodies that one key sends at once."""
ASKED = 100
"""Requests of the other client per round."""


def photo() -> bytes:
    """A JPEG of `IMAGE_SIZE`."""
    out = io.BytesIO()
    Image.linear_gradient("L").resize(IMAGE_SIZE).convert("RGB").save(out, "JPEG")
    return out.getvalue()


def send_many(url: str, key: str, content: bytes, count: int) -> None:
    """Send `count` creations with this image at once, from a process of low priority."""
    os.nice(10)
    headers = {"Authorization": f"Bearer {key}"}

    def send(_: int) -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=600) as http, suppress(httpx.TransportError):
            http.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": content})

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(send, range(count)))


def pour_header(port: int, megabytes: int) -> None:
    """Send one header line that does not end."""
    os.nice(10)
    with socket.create_connection(("127.0.0.1", port)) as connection, suppress(OSError):
        connection.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
        for _ in range(16 * megabytes):
            connection.sendall(b"a" * 65536)


def pour_json(url: str, key: str) -> None:
    """Send ten JSON bodies of 23 MB, each with 1.6 million keys, at once."""
    os.nice(10)
    content = ("{" + ",".join(f'"k{number}":1' for number in range(1_600_000)) + "}").encode()
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def send(_: int) -> None:
        with httpx.Client(base_url=url, headers=headers, timeout=600) as http, suppress(httpx.TransportError):
            http.post("/v1/videos", content=content)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(send, range(10)))


def asked(server: Server, key: str, path: str, going_on: Callable[[], bool]) -> list[float]:
    """Milliseconds of each answer to another client, at most `ASKED` of them."""
    connection, taken = http.client.HTTPConnection("127.0.0.1", server.settings["port"]), []
    while len(taken) < ASKED and going_on():
        began = time.perf_counter()
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        answer.read()
        taken.append(1000 * (time.perf_counter() - began))
        assert answer.status == 200
        time.sleep(0.01)
    connection.close()
    return taken


def beside(server: Server, key: str, path: str, attack: Callable[..., None], arguments: tuple[Any, ...],
           rounds: int) -> dict[str, float]:  # fmt: skip
    """Times of another client in quiet and in attacked rounds, and what the attacks cost the server."""
    quiet: list[float] = []
    attacked: list[float] = []
    used, began = 0.0, time.perf_counter()
    for _ in range(rounds):
        quiet += asked(server, key, path, lambda: True)
        attacker = multiprocessing.get_context("spawn").Process(target=attack, args=arguments)
        before = cpu_s(server.pid)
        attacker.start()
        while attacker.is_alive():
            attacked += asked(server, key, path, attacker.is_alive)
        attacker.join()
        used += cpu_s(server.pid) - before
    return {
        "quiet_p50_ms": median(quiet),
        "quiet_p99_ms": quantiles(quiet, n=100)[98],
        "attacked_p50_ms": median(attacked),
        "attacked_p99_ms": quantiles(attacked, n=100)[98],
        "p99_ratio": quantiles(attacked, n=100)[98] / quantiles(quiet, n=100)[98],
        "server_cpu_s_per_round": used / rounds,
        "server_memory_mb": memory_mb(server.pid),
        "seconds": time.perf_counter() - began,
    }


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serve_attacks", description="Attacks on fw-serve, measured."
    )
    parser.add_argument("--out", type=Path, default=Path("bench"), help="folder of serve_attacks.json")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each attack")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "server"
        (folder / "data").mkdir(parents=True)
        store = JobStore(f"sqlite:///{folder / 'data' / 'jobs.db'}")
        anna, ben = (KeyRing(store).add(who, per_minute=100_000, max_queued=100_000) for who in ("anna", "ben"))
        store.close()
        server = Server(folder, keys=True, limits={"queue": 100_000})
        try:
            server.start()
            port = server.settings["port"]
            attacks: dict[str, tuple[str, Callable[..., None], tuple[Any, ...]]] = {
                "endless header line": ("/livez", pour_header, (port, 80)),
                "large JSON bodies": ("/livez", pour_json, (server.url, anna)),
                "large uploads": ("/livez", send_many, (server.url, anna, b"\0" * UPLOAD_BYTES, UPLOADS)),
                "large images": ("/v1/videos", send_many, (server.url, anna, photo(), IMAGES)),
            }
            measured: dict[str, Any] = {
                what: beside(server, ben, path, attack, arguments, options.rounds)
                for what, (path, attack, arguments) in attacks.items()
            }
        finally:
            server.stop()
    measured = {what: {key: round(value, 2) for key, value in row.items()} for what, row in measured.items()}
    measured["load_per_core"] = round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "serve_attacks.json").write_text(json.dumps(measured, indent=2) + "\n")
    print(json.dumps(measured, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
