"""Attacks on a running server: each is refused, and other requests are answered meanwhile."""

import base64
import contextlib
import io
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image
from tests.stub_server.server_process import Server, wait_until

from fw_serve.http.connections import HEAD_BYTES, HEADERS, PIPELINED
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.store import JobStore
from fw_serve.studio.routes import STATIC

QUICK_S = 10.0
"""Time for an answer that takes milliseconds on an idle machine."""


@pytest.fixture(scope="module")
def target(tmp_path_factory, module_server):
    """A server with short timeouts."""
    connections = {"head_s": 2.0, "body_s": 3.0, "read_s": 2.0, "per_address": 40}
    return module_server(tmp_path_factory.mktemp("target"), connections=connections)


@contextlib.contextmanager
def connected(server: Server):
    with socket.create_connection(("127.0.0.1", server.settings["port"]), timeout=120) as connection:
        yield connection


def answer(connection: socket.socket) -> bytes:
    """Everything until the server closes."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def pour(connection: socket.socket, piece: bytes, megabytes: int) -> None:
    """Send a piece over and over, until the server stops reading."""
    block = piece * (1 + (1 << 16) // len(piece))
    with contextlib.suppress(ConnectionError):
        for _ in range(megabytes * (1 << 20) // len(block)):
            connection.sendall(block)


def alive(server: Server) -> float:
    began = time.perf_counter()
    assert server.http.get("/livez").status_code == 200
    return time.perf_counter() - began


@pytest.mark.parametrize("start", [b"GET /", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ", b"GET / HTTP/1.1\r\nX-"])
def test_an_endless_request_line_or_header_is_refused_at_once(target, start):
    with connected(target) as connection:
        connection.sendall(start)
        sender = threading.Thread(target=pour, args=(connection, b"a", 80))
        began = time.perf_counter()
        sender.start()
        slowest = max(alive(target) for _ in range(20))
        head = answer(connection)
        assert time.perf_counter() - began < QUICK_S
        sender.join()
    assert not head or head.startswith(b"HTTP/1.1 431")
    assert slowest < QUICK_S


def test_a_head_that_is_too_large_or_has_too_many_headers_is_431(target):
    for lines in ([b"X-A: " + b"a" * (HEAD_BYTES + 1)], [b"X-%d: a" % number for number in range(HEADERS + 1)]):
        with connected(target) as connection:
            connection.sendall(b"\r\n".join([b"GET /livez HTTP/1.1", b"Host: localhost", *lines]) + b"\r\n\r\n")
            assert answer(connection).startswith(b"HTTP/1.1 431")
    within = {f"X-{number}": "a" * 100 for number in range(50)}
    assert target.http.get("/livez", headers=within).status_code == 200


def test_endless_trailers_and_chunk_extensions_are_refused(target):
    head = b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    for start in (b"1;a=", b"1\r\na\r\n0\r\nX-Trailer: "):
        with connected(target) as connection:
            connection.sendall(head + start)
            began = time.perf_counter()
            sender = threading.Thread(target=pour, args=(connection, b"a", 80))
            sender.start()
            assert alive(target) < QUICK_S
            answer(connection)
            sender.join()
            assert time.perf_counter() - began < 2 * QUICK_S


def test_slow_heads_bodies_and_idle_connections_are_closed(target):
    with connected(target) as silent, connected(target) as slow, connected(target) as body:
        slow.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        body.sendall(b"POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        body.sendall(b"Content-Length: 100000\r\n\r\n")
        for _ in range(3):
            time.sleep(0.5)
            slow.sendall(b"a")
            body.sendall(b"a")
        assert answer(silent).startswith(b"HTTP/1.1 408")
        assert answer(slow).startswith(b"HTTP/1.1 408")
        assert answer(body).startswith(b"HTTP/1.1 408")


def test_connections_per_address_are_limited_and_given_back(target):
    with contextlib.ExitStack() as held:
        wait_until(lambda: alive(target) < QUICK_S)
        many = [held.enter_context(connected(target)) for _ in range(60)]
        time.sleep(0.5)
        answers = []
        for connection in many:
            connection.settimeout(0.05)
            with contextlib.suppress(TimeoutError, ConnectionError):
                answers.append(connection.recv(100))
        assert sum(reply.startswith(b"HTTP/1.1 503") for reply in answers) >= 20
    with httpx.Client(base_url=target.url) as fresh:
        wait_until(lambda: fresh.get("/livez").status_code == 200)


def test_requests_without_waiting_for_responses_are_limited(target):
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(target) as connection:
        connection.sendall(PIPELINED * request)
        received = b""
        while received.count(b"HTTP/1.1 200") < PIPELINED:
            received += connection.recv(65536)
    before = memory_mb(target.pid)
    with contextlib.ExitStack() as held:
        many = [held.enter_context(connected(target)) for _ in range(20)]
        for connection in many:
            with contextlib.suppress(ConnectionError):
                connection.sendall(5000 * request)
        assert alive(target) < QUICK_S
        assert all(answer(connection).count(b"HTTP/1.1 200") <= 2 * PIPELINED for connection in many)
    assert memory_mb(target.pid) < before + 50


def test_a_client_that_does_not_read_is_dropped(target):
    script = max(STATIC.rglob("*.js"), key=lambda path: path.stat().st_size)
    request = f"GET /studio/{script.name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with connected(target) as connection:
        connection.sendall(PIPELINED * request)
        time.sleep(4.0)  # twice the time that a client may take
        received = answer(connection)
    assert 0 < len(received) < PIPELINED * script.stat().st_size


def test_websockets_are_not_spoken(target):
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    assert target.http.get("/livez", headers=upgrade).status_code == 200


def test_a_form_without_files_is_refused_unread(server):
    content = b"camera_trajectory=" + b"%7B" * 500_000
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    for path in ("/v1/videos", "/v1/videos/estimate"):
        refused = server.http.post(path, content=content, headers=headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "unsupported_media_type")


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def test_large_json_costs_neither_the_event_loop_nor_memory(server, image):
    wide = ("{" + ",".join(f'"key{number}":1' for number in range(100_000)) + "}").encode()
    assert len(wide) > 1_000_000
    deep = b'{"camera_trajectory":' + b"[" * 900_000
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    many = {"prompt": "x", "input_reference": {"image_url": url}, **{f"key{number}": 1 for number in range(50_000)}}
    bodies = [wide, deep, json.dumps(many).encode(), b'{"a":"' + b"a" * 1_900_000 + b'"}']
    headers = {"Content-Type": "application/json"}

    def send(number: int) -> int:
        content = bodies[number % len(bodies)]
        path = ("/v1/videos", "/v1/trajectories/preview", "/v1/videos/estimate")[number % 3]
        with httpx.Client(base_url=server.url, timeout=120) as http:
            return http.post(path, content=content, headers=headers).status_code

    assert set(map(send, range(12))) <= {400, 413}
    with ThreadPoolExecutor(10) as pool:
        codes = pool.map(send, range(10))
        slowest = max(alive(server) for _ in range(20))
        assert set(codes) <= {400, 413}
    assert slowest < QUICK_S
    wait_until(lambda: memory_mb(server.pid) < 150, what="resident memory below 150 MB")


@pytest.mark.slow
def test_many_large_images_of_one_key_leave_the_others_theirs(tmp_path, module_server, image):
    """`python -m benchmarks.serve_attacks` measures how long the others wait."""
    folder = tmp_path / "keys"
    (folder / "data").mkdir(parents=True)
    store = JobStore(f"sqlite:///{folder / 'data' / 'jobs.db'}")
    anna, ben = (KeyRing(store).add(name, per_minute=1000, max_queued=200) for name in ("anna", "ben"))
    store.close()
    server = module_server(folder, keys=True, limits={"queue": 1000, "creating": 2})
    photo = io.BytesIO()
    Image.linear_gradient("L").resize((7680, 5200)).convert("RGB").save(photo, "JPEG")

    def send(key: str, content: bytes) -> int:
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=300) as http:
            return http.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": content}).status_code

    with ThreadPoolExecutor(20) as pool:
        sent = [pool.submit(send, anna, photo.getvalue()) for _ in range(20)]
        assert [send(ben, image) for _ in range(5)] == [200] * 5, "its images are decoded meanwhile"
        codes = [one.result() for one in sent]
    assert set(codes) <= {200, 400, 429}, "400: an image that took too long on a busy machine"
    assert 429 in codes, "a key has a share of the decoding"


def test_refusals_come_before_decoding(make_server, image):
    server = make_server(limits={"queue": 1}).start()
    gate = server.folder / "gate"
    held = server.create(f"hold={gate}", image).json()["id"]
    wait_until(lambda: server.get(held)["status"] == "in_progress")
    waiting = server.create("waiting", image)
    assert waiting.status_code == 200
    broken = random.Random(0).randbytes(1_500_000)
    refused = server.create("full", broken)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full"), "not 400 for the image"
    gate.touch()
    server.finished(waiting.json()["id"])
    header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (7000).to_bytes(4, "big") * 2 + bytes(1_000_000)
    wide = server.create("x", header)
    assert (wide.status_code, wide.json()["error"]["param"]) == (400, "input_reference")
    assert "7000x7000" in wide.json()["error"]["message"]


def test_limits_are_those_of_the_model(make_server, image):
    server = make_server(limits={"frames": None, "pixels": None}).start()
    for fields, param, figures in (
        ({"num_frames": "9"}, "num_frames", ("9", "5")),
        ({"size": "64x48"}, "size", ("64x48", str(48 * 32), "48x32")),
        ({"num_inference_steps": "101"}, "num_inference_steps", ("101", "100")),
    ):
        error = server.create("x", image, **fields).json()["error"]
        assert error["param"] == param
        assert all(figure in error["message"] for figure in figures), error["message"]
    assert server.create("x", image, num_frames="5", size="32x48").status_code == 200


def test_a_worker_killed_for_its_memory_fails_its_job_without_a_repetition(make_server, image, tmp_path):
    kills = tmp_path / "kills"
    server = make_server(memory_kills=str(kills)).start()
    gate = tmp_path / "gate"
    held = server.create(f"hold={gate}", image).json()["id"]
    wait_until(lambda: server.get(held)["status"] == "in_progress")
    kills.write_text("x")
    (worker,) = server.worker_pids()
    import os
    import signal

    os.kill(worker, signal.SIGKILL)
    end = server.finished(held)
    assert (end["error"]["code"], end["attempts"]) == ("out_of_memory", 1)
    assert server.finished(server.create("good", image).json()["id"])["status"] == "completed"


def test_bytes_in_transit_have_a_share_per_key(tmp_path, module_server, image):
    folder = tmp_path / "bytes"
    (folder / "data").mkdir(parents=True)
    store = JobStore(f"sqlite:///{folder / 'data' / 'jobs.db'}")
    ring = KeyRing(store)
    anna, ben = (ring.add(name, per_minute=100_000, max_queued=10_000) for name in ("anna", "ben"))
    store.close()
    server = module_server(folder, keys=True, limits={"buffered_bytes": 1_000_000, "creating": 2, "queue": 10_000})
    head = "POST /v1/videos HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {anna}\r\n"

    def create(key):
        server.http.headers["Authorization"] = f"Bearer {key}"
        return server.create("x", image)

    def in_transit(connection, length):
        """Send the head of a request; the server answers 100 when it starts to read the body, as its share is taken."""
        connection.sendall(f"{head}Expect: 100-continue\r\n{length}\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 100")

    for length in ("Content-Length: 999900", "Transfer-Encoding: chunked"):  # unknown length counts as the maximum
        with connected(server) as connection:
            in_transit(connection, length)
            answer = create(anna)
            assert answer.status_code == 429
            assert answer.json()["error"]["code"] == "too_many_bytes"
            assert answer.headers["retry-after"] == "2"
            assert create(ben).status_code == 200
        wait_until(lambda: create(anna).status_code == 200, what="a share that is given back")
    with connected(server) as unknown:  # is refused before it sends a body
        unknown.sendall(b"POST /v1/videos/x/remix HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n")
        assert unknown.recv(65536).startswith(b"HTTP/1.1 401")
    with connected(server) as one, connected(server) as two:
        for connection in (one, two):
            in_transit(connection, "Content-Length: 10")
        answer = create(anna)
        assert answer.status_code == 429
        assert answer.json()["error"]["code"] == "too_many_requests"


def test_event_streams_have_a_share_per_key(tmp_path, module_server, image):
    folder = tmp_path / "streams"
    (folder / "data").mkdir(parents=True)
    store = JobStore(f"sqlite:///{folder / 'data' / 'jobs.db'}")
    ring = KeyRing(store)
    anna, ben = (ring.add(name, per_minute=100, max_queued=20) for name in ("anna", "ben"))
    server = module_server(folder, keys=True, limits={"event_streams": 5, "own_streams": 3})
    gate = tmp_path / "gate"
    videos = {}
    for key in (anna, ben):
        server.http.headers["Authorization"] = f"Bearer {key}"
        videos[key] = server.create(f"hold={gate}", image).json()["id"]
    with contextlib.ExitStack() as held:

        def follow(key):
            http = held.enter_context(httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}))
            return held.enter_context(http.stream("GET", f"/v1/videos/{videos[key]}/events")).status_code

        assert [follow(anna) for _ in range(4)] == [200, 200, 200, 429]
        assert [follow(ben) for _ in range(3)] == [200, 200, 429], "five streams in all"
    wait_until(lambda: _stream_status(server, ben, videos[ben]) == 200, what="streams that are given back")
    gate.touch()
    store.close()


def _stream_status(server, key, video) -> int:
    with (
        httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {key}"}) as http,
        http.stream("GET", f"/v1/videos/{video}/events") as response,
    ):
        return response.status_code


def test_a_download_survives_the_deletion_and_its_continuation_is_404(make_server, image, tmp_path):
    files = tmp_path / "files"
    files.mkdir()
    (files / "video.mp4").write_bytes(random.Random(0).randbytes(30_000_000))
    server = make_server(files=str(files)).start()
    video = server.create("x", image).json()["id"]
    server.finished(video)
    path = f"/v1/videos/{video}/content"
    with server.http.stream("GET", path) as response:
        parts = response.iter_bytes(1 << 16)
        size = len(next(parts))
        assert server.http.delete(f"/v1/videos/{video}").status_code == 200
        size += sum(map(len, parts))
    assert size == 30_000_000
    gone = server.http.get(path, headers={"Range": "bytes=1000-"})
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "video_not_found")
    assert "Traceback" not in (server.folder / "log").read_text()
    wait_until(lambda: not any("deleted" in str(f) for f in _open_files(server.pid)), what="closed files")


def _open_files(pid: int) -> list[str]:
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(str(link.readlink()))
    return [name for name in found if "results" in name]


def test_a_full_disk_is_507_and_readyz_reports_it(make_server, image):
    server = make_server(limits={"free_bytes": 1 << 60}).start(ready=False)
    wait_until(lambda: server.http.get("/readyz").json()["workers"]["ready"] == 1)
    ready = server.http.get("/readyz")
    assert (ready.status_code, "disk" in ready.json()["message"]) == (503, True)
    assert ready.json()["disk_free_bytes"] > 0
    refused = server.create("x", image)
    assert (refused.status_code, refused.json()["error"]["code"]) == (507, "storage_full")
    assert "fw_disk_free_bytes" in server.http.get("/metrics").text
