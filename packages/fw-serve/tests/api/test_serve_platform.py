"""What proxies, clients and operators expect of an HTTP service."""

import base64
import gzip
import hashlib
import hmac
import io
import json
import re
import threading
import zipfile

import httpx
import numpy as np
import pytest
from tests.stub_server.server_process import wait_until
from tests.stub_server.stub_engine import FILES

from fw_serve.api import webhooks as sending
from fw_serve.api.webhooks import PAUSES_S, Webhooks
from fw_serve.jobs.keys import KeyRing
from fw_serve.jobs.model import NewJob, WorldRequest
from fw_serve.jobs.store import Admission, JobStore

REQUEST = WorldRequest.model_validate(
    {"prompt": "x", "model": "m", "seconds": "1", "camera": "pan",
     "settings": {"num_frames": 5, "width": 48, "height": 32}}
)  # fmt: skip


@pytest.fixture(scope="module")
def made(server, image):
    """A completed video."""
    video = server.create("a room", image).json()["id"]
    assert server.finished(video)["status"] == "completed"
    return video


def test_head_is_get_without_a_body(server, made):
    for path in ("/livez", "/v1/videos", f"/v1/videos/{made}", f"/v1/videos/{made}/content", "/", "/nothing",
                 f"/v1/videos/{made}/content?variant=all", f"/v1/videos/{made}/events"):  # fmt: skip
        head, get = server.http.head(path), server.http.get(path)
        assert (head.status_code, head.content) == (get.status_code, b""), path
        assert head.headers["content-type"] == get.headers["content-type"]
        if "all" not in path and "events" not in path:
            assert head.headers["content-length"] == get.headers["content-length"], path


def test_etags_answer_304(server, made):
    for path in (f"/v1/videos/{made}", f"/v1/videos/{made}/content", "/", "/v1/trajectories"):
        first = server.http.get(path)
        again = server.http.get(path, headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
        assert (again.status_code, again.content) == (304, b""), path
        assert again.headers["etag"] == first.headers["etag"]
        assert server.http.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_json_and_scripts_are_compressed_and_vary(server, made):
    script = re.search(r'src="([^"]+\.js)"', server.http.get("/").text)
    assert script is not None
    for path in ("/openapi.json", "/v1/trajectories", "/" + script[1].lstrip("./")):
        plain = server.http.get(path, headers={"Accept-Encoding": "identity"})
        with server.http.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as response:
            raw = b"".join(response.iter_raw())
        assert response.headers["content-encoding"] == "gzip"
        assert "Accept-Encoding" in response.headers["vary"]
        assert "Accept-Encoding" in plain.headers["vary"]
        assert gzip.decompress(raw) == plain.content
        assert len(raw) < len(plain.content) / 2
    video = server.http.get(f"/v1/videos/{made}/content", headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in video.headers


def test_request_ids_and_the_access_log(make_server, image):
    server = make_server(settings={"access_log": "json"}).start()
    given = server.http.get("/v1/models", headers={"X-Request-ID": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    own = server.http.get("/v1/models", headers={"X-Request-ID": "with space"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{16}", own)
    lines = [json.loads(line[line.index("{") :]) for line in (server.folder / "log").read_text().splitlines()
             if '"request_id"' in line]  # fmt: skip
    by_id = {line["request_id"]: line for line in lines}
    assert (by_id["abc-1"]["method"], by_id["abc-1"]["route"], by_id["abc-1"]["status"]) == ("GET", "/v1/models", 200)
    assert by_id["abc-1"]["ms"] > 0


def test_cors_is_off_and_an_allowlist_opens_it(server, make_server, image):
    page = "https://app.example.org"
    assert "access-control-allow-origin" not in server.http.get("/v1/models", headers={"Origin": page}).headers
    opened = make_server(settings={"allowed_origins": [page], "root_path": "/worlds"}).start()
    asked = {"Origin": page, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    preflight = opened.http.options("/v1/videos", headers=asked)
    assert (preflight.status_code, preflight.headers["access-control-allow-origin"]) == (200, page)
    created = opened.http.post(
        "/v1/videos", data={"prompt": "x"}, files={"input_reference": image},
        headers={"Origin": page, "Sec-Fetch-Site": "cross-site"},
    )  # fmt: skip
    assert (created.status_code, created.headers["access-control-allow-origin"]) == (200, page)
    assert "Origin" in created.headers["vary"]
    other = opened.http.post("/v1/videos", data={"prompt": "x"}, headers={"Origin": "https://evil.example"})
    assert other.status_code == 403
    for path in ("/v1/models", "/worlds/v1/models"):
        assert opened.http.get(path).status_code == 200, "a proxy may strip the prefix or not"
    assert opened.http.get("/worlds/openapi.json").json()["servers"] == [{"url": "/worlds"}]


def test_an_estimate_creates_nothing(server, made):
    before = len(server.http.get("/v1/videos?limit=100").json()["data"])
    found = server.http.post("/v1/videos/estimate", json={"prompt": "x", "num_inference_steps": 6}).json()
    assert (found["num_frames"], found["size"], found["num_inference_steps"]) == (5, "48x32", 6)
    assert found["seconds"] > 0
    assert found["queue_position"] == 1
    twice = server.http.post("/v1/videos/estimate", json={"prompt": "x", "num_inference_steps": 12}).json()
    listed = [1000 - 50 * step for step in range(12)]
    assert server.http.post("/v1/videos/estimate", json={"prompt": "x", "timesteps": listed}).json() == twice
    assert twice["seconds"] >= found["seconds"]
    wrong = server.http.post("/v1/videos/estimate", json={"prompt": "x", "size": "50x50"})
    assert wrong.json()["error"]["param"] == "size"
    assert len(server.http.get("/v1/videos?limit=100").json()["data"]) == before


def test_one_zip_has_every_file(server, made):
    content = server.http.get(f"/v1/videos/{made}/content", params={"variant": "all"})
    assert content.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(content.content)) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == set(FILES)
        assert archive.read("video.mp4") == FILES["video.mp4"]


def test_a_world_goes_on_from_its_last_frame(make_server, image, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    with zipfile.ZipFile(folder / "colmap.zip", "w") as archive:
        archive.writestr("images/frame_00000.png", b"\x89PNG first")
        archive.writestr("images/frame_00001.png", b"\x89PNG last")
    server = make_server(files=str(folder)).start()
    camera = json.dumps({"preset": "dolly", "fov_deg": 70})
    source = server.create("too-long", image, camera_trajectory=camera, seed="4").json()["id"]
    server.finished(source)
    assert server.get(source)["notes"] == ["the prompt is too long"]
    longer = server.http.post(f"/v1/videos/{source}/extend", json={"camera_trajectory": {"preset": "pan"}}).json()
    assert longer["notes"] == []
    assert (longer["extended_from_video_id"], longer["camera"], longer["seed"]) == (source, "pan", 4)
    assert longer["prompt"] == "too-long"
    inputs = server.folder / "data" / "inputs" / longer["id"]
    assert (inputs / "image.png").read_bytes() == b"\x89PNG last"
    before = json.loads((server.folder / "data" / "inputs" / source / "camera.json").read_text())
    after = json.loads((inputs / "camera.json").read_text())
    assert np.allclose(after["K"][0], before["K"][-1]), "the field of view stays"
    assert server.finished(longer["id"])["status"] == "completed"
    wrong = server.http.post(f"/v1/videos/{source}/extend", json={"steps": 1})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "steps")


def test_a_shared_link_reads_one_world_without_a_key(tmp_path, module_server, image):
    folder = tmp_path / "shared"
    (folder / "data").mkdir(parents=True)
    store = JobStore(f"sqlite:///{folder / 'data' / 'jobs.db'}")
    key = KeyRing(store).add("anna", per_minute=100, max_queued=20)
    store.close()
    server = module_server(folder, keys=True)
    bare = httpx.Client(base_url=server.url)
    server.http.headers["Authorization"] = f"Bearer {key}"
    video = server.create("a room", image).json()["id"]
    server.finished(video)
    link = server.http.post(f"/v1/videos/{video}/share").json()
    assert bare.get(link["path"]).json()["id"] == video
    assert bare.get(link["path"] + "/content").content == FILES["video.mp4"]
    assert bare.get(f"/v1/videos/{video}").status_code == 401
    assert bare.delete(link["path"]).status_code == 405
    assert server.get(video)["shared"]
    assert link["token"].encode() not in (folder / "data" / "jobs.db").read_bytes()
    renewed = server.http.post(f"/v1/videos/{video}/share").json()
    assert bare.get(link["path"]).status_code == 404
    server.http.delete(f"/v1/videos/{video}/share")
    assert bare.get(renewed["path"]).status_code == 404
    bare.close()


def delivered(hooks) -> int:
    """Send what is due, wait, and count the accepted webhooks."""
    return sum(sent.result() for sent in hooks.send_due())


def test_a_webhook_is_signed_repeated_and_given_up(tmp_path, monkeypatch):
    clock = [1_000_000.0]
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}", clock=lambda: clock[0])
    url = "https://hooks.example.org/a"
    store.create(NewJob(id="video_1", owner="", request=REQUEST, webhook=url), Admission())
    calls, statuses = [], [500, 200]

    def post(to, address, body, headers):
        calls.append((to, address, json.loads(body), headers, body))
        return statuses.pop(0) if statuses else 500

    hooks = Webhooks(store, ("hooks.example.org",), "secret", post=post)
    monkeypatch.setattr(hooks.checker, "_resolve", lambda *_: ["93.184.216.34"])
    assert delivered(hooks) == 0
    assert not calls
    store.complete(str(store.claim("w", 10.0).lease), "r")  # type: ignore[union-attr]
    assert delivered(hooks) == 0
    clock[0] += PAUSES_S[0] - 1
    assert delivered(hooks) == 0
    assert len(calls) == 1
    clock[0] += 2
    assert delivered(hooks) == 1
    to, address, event, headers, body = calls[1]
    assert (to, address, event["type"], event["data"]["id"]) == (url, "93.184.216.34", "video.completed", "video_1")
    message = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(b"secret", message, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    clock[0] += 1e6
    assert delivered(hooks) == 0
    assert len(calls) == 2
    store.create(NewJob(id="video_2", owner="", request=REQUEST, webhook=url), Admission())
    store.cancel("video_2", "")
    for _ in range(20):
        delivered(hooks)
        clock[0] += max(PAUSES_S) + 1
    assert len(calls) == 2 + 1 + len(PAUSES_S)
    assert calls[-1][2]["type"] == "video.failed"
    monkeypatch.setattr(hooks.checker, "_resolve", lambda *_: ["10.0.0.7"])
    with pytest.raises(sending.ApiError):
        hooks.check(url)
    hooks.close()
    store.close()


def test_a_slow_receiver_delays_only_the_webhooks_of_its_owner(tmp_path, monkeypatch):
    store = JobStore(f"sqlite:///{tmp_path / 'jobs.db'}")
    release, received = threading.Event(), []

    def post(to, _address, body, _headers):
        if to.endswith("slow"):
            release.wait()
        received.append(json.loads(body)["data"]["id"])
        return 200

    hooks = Webhooks(store, ("hooks.example.org",), "secret", post=post)
    monkeypatch.setattr(hooks.checker, "_resolve", lambda *_: ["93.184.216.34"])

    def cancelled(name, owner, path):
        url = f"https://hooks.example.org/{path}"
        store.create(NewJob(id=name, owner=owner, request=REQUEST, webhook=url), Admission())
        store.cancel(name, owner)

    for name in ("slow_1", "slow_2"):
        cancelled(name, "anna", "slow")
    cancelled("fast_1", "bert", "fast")
    first = hooks.send_due()
    assert len(first) == 2, "one of each owner"
    cancelled("fast_2", "bert", "fast")
    while "fast_2" not in received:
        for sent in hooks.send_due():
            sent.result()
    assert received == ["fast_1", "fast_2"], "anna's receiver still holds hers"
    release.set()
    for sent in first:
        sent.result()
    assert set(received) == {"slow_1", "slow_2", "fast_1", "fast_2"}
    hooks.close()
    store.close()


def test_webhooks_are_off_by_default(server, image):
    refused = server.create("x", image, webhook="https://hooks.example.org/")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "webhook")


def test_priorities_are_a_right_of_the_key(tmp_path, module_server, image):
    folder = tmp_path / "priorities"
    (folder / "data").mkdir(parents=True)
    store = JobStore(f"sqlite:///{folder / 'data' / 'jobs.db'}")
    key = KeyRing(store).add("anna", per_minute=100, max_queued=20, max_priority=3)
    store.close()
    server = module_server(folder, keys=True)
    server.http.headers["Authorization"] = f"Bearer {key}"
    refused = server.create("x", image, priority="4")
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "priority")
    assert server.create("x", image, priority="3").json()["priority"] == 3


PLAIN = [
    ({"size": "96*64"}, "size", "96x64"),
    ({"seed": -1}, "seed", "at least 0"),
    ({"seed": 1.5}, "seed", "whole number"),
    ({"steps": 2}, "steps", "num_inference_steps"),
    ({"n": 1}, "n", "one request per world"),
    ({"samplr": "euler"}, "samplr", "sampler"),
    ({"seconds": "ten"}, "seconds", "4 or 1.5"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"sampler": "magic"}, "sampler", "euler"),
    ({"input_reference": "photo.png"}, "input_reference", "data: URL"),
    ({"lora": "style"}, "lora", "none"),
    ({"camera_trajectory": {"preset": "orbit", "speed": 2}}, "camera_trajectory", "speed"),
]


@pytest.mark.parametrize(("fields", "param", "words"), PLAIN, ids=lambda value: str(value)[:40])
def test_errors_say_what_is_accepted(server, image, fields, param, words):
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    body = {"prompt": "x", "input_reference": {"image_url": url}, **fields}
    answer = server.http.post("/v1/videos", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert words in error["message"], error["message"]
    for jargon in ("Input should", "pattern", "Extra inputs", "validation"):
        assert jargon not in error["message"]


def test_numbers_and_plain_urls_of_other_clients_are_taken(server, image):
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    answer = server.http.post("/v1/videos", json={"prompt": "x", "input_reference": url, "seconds": 0.5})
    assert (answer.status_code, answer.json()["seconds"]) == (200, "0.5")


def test_traces_span_every_request(monkeypatch, tmp_path):
    pytest.importorskip("opentelemetry.sdk", reason="install fw-serve[otel]")
    import asyncio

    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    from fw_serve.api.app import create_app
    from fw_serve.http import tracing
    from fw_serve.settings import Settings

    exporter = InMemorySpanExporter()
    monkeypatch.setattr(tracing, "_TRACER", [])
    tracing.set_up_tracing(exporter)
    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    store = JobStore(url)
    app = create_app(Settings(data=tmp_path, database=url), store)
    parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            await http.get("/v1/models", headers={"traceparent": parent})

    asyncio.run(ask())
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET /v1/models"
    assert span.context is not None
    assert span.attributes is not None
    assert format(span.context.trace_id, "032x") == parent.split("-")[1]
    assert span.attributes["http.response.status_code"] == 200
    store.close()


def test_results_in_object_storage(make_server, image):
    pytest.importorskip("fsspec", reason="install fw-serve[storage]")
    server = make_server()
    remote = server.folder / "bucket"
    where = f"local://{remote}"
    server.settings |= {"settings": {"artifacts": where}, "worker": {"artifacts": where}}
    server.start()
    video = server.create("x", image).json()["id"]
    assert server.finished(video)["status"] == "completed"
    assert list((server.folder / "data" / "results").iterdir()) == []
    assert server.http.get(f"/v1/videos/{video}/content").content == FILES["video.mp4"]
    everything = server.http.get(f"/v1/videos/{video}/content", params={"variant": "all"})
    with zipfile.ZipFile(io.BytesIO(everything.content)) as archive:
        assert archive.testzip() is None
        assert {name: archive.read(name) for name in archive.namelist()} == FILES
    assert list(remote.rglob("video.mp4"))
    server.http.delete(f"/v1/videos/{video}")
    wait_until(lambda: not list(remote.rglob("video.mp4")), what="an empty bucket")
