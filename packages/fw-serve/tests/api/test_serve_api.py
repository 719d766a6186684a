"""The wire format: the openai client unchanged, and what it does not speak of."""

import base64
import io
import json

import httpx
import openai
import pytest
from PIL import Image
from tests.stub_server.schema_fuzz import fuzz
from tests.stub_server.server_process import QUEUE
from tests.stub_server.stub_engine import FILES

PRESET = json.dumps({"preset": "dolly", "distance": 0.2})


@pytest.fixture
def api(server, monkeypatch):
    """The official client, pointed at our server; its methods warn that OpenAI's own product has ended."""
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_openai_client_from_creation_to_deletion(api, server, image):
    video = api.videos.create_and_poll(
        prompt="a room steps=2",
        input_reference=("room.png", image),
        size="64x48",  # type: ignore[arg-type]
        extra_body={"seed": 7, "num_frames": 9, "camera_trajectory": PRESET},
    )
    assert (video.status, video.progress, video.size, video.model) == ("completed", 100, "64x48", "stub")
    assert video.completed_at is not None
    assert video.expires_at is not None
    extra = video.model_extra or {}
    assert (extra["seed"], extra["num_frames"], extra["camera"]) == (7, 9, "dolly")
    for variant, name in (("video", "video.mp4"), ("thumbnail", "thumbnail.webp"), ("spritesheet", "spritesheet.jpg")):
        assert api.videos.download_content(video.id, variant=variant).read() == FILES[name]  # type: ignore[arg-type]
    remix = api.videos.remix(video.id, prompt="another room")
    assert remix.remixed_from_video_id == video.id
    assert (remix.size, (remix.model_extra or {})["camera"]) == ("64x48", "dolly")
    assert api.videos.poll(remix.id).status == "completed"
    listed = [item.id for item in api.videos.list(limit=1)]
    assert listed.index(remix.id) < listed.index(video.id)
    for gone in (video, remix):
        assert api.videos.delete(gone.id).deleted
    with pytest.raises(openai.NotFoundError) as missing:
        api.videos.retrieve(video.id)
    assert (missing.value.code, missing.value.param) == ("video_not_found", "video_id")
    assert api.models.list().data[0].id == "stub"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_failure_is_a_state_and_not_an_error(api, image):
    video = api.videos.create_and_poll(prompt="wrong", input_reference=("room.png", image))
    assert video.status == "failed"
    assert (video.error.code, video.error.message) == ("invalid_request", "this cannot be made")
    with pytest.raises(openai.NotFoundError):
        api.videos.download_content(video.id)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_client_waits_out_a_full_queue(full_server, image):
    server = full_server
    waiting = [server.create(f"waiting{number}", image).json() for number in range(QUEUE)]
    assert [video["queue_position"] for video in waiting] == list(range(1, QUEUE + 1))
    refused = server.create("refused", image)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-queue-position"] == str(QUEUE + 1)
    patient = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=8)
    opened = []

    def open_gate(_response):
        opened.append(_response.status_code)
        server.gate.touch()

    patient._client.event_hooks["response"].append(open_gate)
    video = patient.videos.create(prompt="patient", input_reference=("room.png", image))
    assert opened[0] == 429
    assert server.finished(video.id)["status"] == "completed"


def test_json_with_a_data_url(server, image):
    url = "data:image/png;base64," + base64.b64encode(image).decode()
    body = {
        "prompt": "x",
        "input_reference": {"image_url": url},
        "camera_trajectory": {"keyframes": [{"position": [0, 0, 0], "look_at": [0, 0, 1]}], "easing": "smooth"},
        "seconds": "0.5",
    }
    video = server.http.post("/v1/videos", json=body).json()
    assert (video["num_frames"], video["seconds"], video["camera"]) == (9, "0.5", "keyframes")
    assert server.finished(video["id"])["status"] == "completed"


def test_cameras_as_files(server, image, tmp_path):
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    released = {"focal_length": 40.0, "scale": 1, "cameras": [pose, pose], "cameras_interp": [pose] * 7}
    transforms = {"fl_x": 40.0, "w": 48, "h": 32, "frames": [{"file_path": "a", "transform_matrix": pose}] * 5}
    row = "0 0.9 1.2 0.5 0.5 0 0 " + " ".join(str(x) for line in pose[:3] for x in line)
    text = "https://example.org/clip\n" + f"{row}\n" * 6
    for content, frames in ((json.dumps(released), 5), (json.dumps(transforms), 5), (text, 5)):
        files = {"input_reference": image, "camera_file": ("../../etc/passwd", content.encode())}
        answer = server.http.post("/v1/videos", data={"prompt": "x"}, files=files)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["camera"], answer.json()["num_frames"]) == ("file", frames)


def test_notes_on_the_inputs(server):
    """What was changed on reading is in the first answer, what the model ignored in the last one; a remix keeps
    the former."""
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.new("RGB", (32, 48)).save(out, "JPEG", exif=exif)
    tum = "".join(f"{i} 0 0 {i} 0 0 0 1\n" for i in range(5)).encode()
    files = {"input_reference": out.getvalue(), "camera_file": ("path.txt", tum)}
    video = server.http.post("/v1/videos", data={"prompt": "too-long"}, files=files).json()
    assert [note.partition(":")[0] for note in video["notes"]] == ["image", "trajectory"]
    assert "EXIF" in video["notes"][0]
    assert "intrinsics" in video["notes"][1]
    done = server.finished(video["id"])["notes"]
    assert done == [*video["notes"], "the prompt is too long"]
    remix = server.http.post(f"/v1/videos/{video['id']}/remix", json={"prompt": "short"}).json()
    assert remix["notes"] == video["notes"]
    assert server.finished(remix["id"])["notes"] == video["notes"]
    listed = {one["id"]: one["notes"] for one in server.http.get("/v1/videos").json()["data"]}
    assert listed[video["id"]] == done


BAD = [
    ({"prompt": ""}, "prompt"),
    ({"size": "100x64"}, "size"),
    ({"size": "64"}, "size"),
    ({"size": "16000x16000"}, "size"),
    ({"num_frames": "6"}, "num_frames"),
    ({"num_frames": "401"}, "num_frames"),
    ({"num_frames": "5", "seconds": "1"}, "num_frames"),
    ({"seconds": "-4"}, "seconds"),
    ({"num_inference_steps": "0"}, "num_inference_steps"),
    ({"num_inference_steps": "999"}, "num_inference_steps"),
    ({"timesteps": "500,1000"}, "timesteps"),
    ({"timesteps": "1000,half"}, "timesteps"),
    ({"timesteps": "1000,500", "num_inference_steps": "3"}, "timesteps"),
    ({"seed": "-1"}, "seed"),
    ({"model": "sora-2"}, "model"),
    ({"sampler": "magic"}, "sampler"),
    ({"scene_scale": "nan"}, "scene_scale"),
    ({"output_path": "/etc/passwd"}, "output_path"),
    ({"prompt": "a\0b"}, "prompt"),
    ({"camera_trajectory": "{"}, "camera_trajectory"),
    ({"camera_trajectory": "[" * 100_000}, "camera_trajectory"),
    ({"camera_trajectory": '{"preset": "fly"}'}, "camera_trajectory"),
    ({"camera_trajectory": '{"preset": "pan", "distance": 1}'}, "camera_trajectory"),
    ({"camera_trajectory": '{"poses_c2w": [[[NaN]]]}'}, "camera_trajectory"),
    ({"camera_trajectory": '{"keyframes": [{"position": [0, 0, 0], "look_at": [0, 0, 0]}]}'}, "camera_trajectory"),
    ({"camera_trajectory": '{"other": 1}'}, "camera_trajectory"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "param"), BAD, ids=lambda value: str(value)[:50])
def test_what_cannot_be_made_is_400_and_names_the_field(server, image, fields, param):
    answer = server.http.post(
        "/v1/videos", data={"prompt": "x", **fields}, files={"input_reference": image}
    )  # fmt: skip
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_a_image_is_needed(server):
    answer = server.http.post("/v1/videos", data={"prompt": "x"}, files={"other": b"x"})
    assert answer.status_code == 400
    answer = server.http.post("/v1/videos", json={"prompt": "x"})
    assert answer.json()["error"]["code"] == "missing_required_parameter"
    answer = server.http.post("/v1/videos", json={"prompt": "x", "input_reference": {"file_id": "file-1"}})
    assert answer.json()["error"]["param"] == "input_reference"


def test_idempotent_creation(server, image):
    def ask(prompt, key="key-1"):
        headers = {"Idempotency-Key": key}
        return server.http.post(
            "/v1/videos", data={"prompt": prompt}, files={"input_reference": image}, headers=headers
        )

    first, second = ask("a"), ask("a")
    assert first.json()["id"] == second.json()["id"]
    assert second.headers["idempotent-replayed"] == "true"
    assert ask("b").status_code == 422
    assert ask("a", "with space").status_code == 400


def test_content_comes_in_parts_and_only_when_it_is_there(full_server):
    server, video = full_server, full_server.held
    early = server.http.get(f"/v1/videos/{video}/content")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "video_not_completed")
    server.gate.touch()
    server.finished(video)
    part = server.http.get(f"/v1/videos/{video}/content", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")
    assert server.http.get(f"/v1/videos/{video}/content", headers={"Range": "bytes=9999-"}).status_code == 416
    formats = {"pointcloud": ("glb", "ply"), "depth": ("mp4", "zip"), "cameras": ("json", "transforms", "requested")}
    for variant, names in formats.items():
        for name in names:
            answer = server.http.get(f"/v1/videos/{video}/content", params={"variant": variant, "format": name})
            assert answer.status_code == 200, (variant, name)
    wrong = server.http.get(f"/v1/videos/{video}/content", params={"variant": "video", "format": "ply"})
    assert wrong.json()["error"]["param"] == "format"


def test_events_tell_every_step_and_end(server, image):
    video = server.create("steps=4 pause=0.3", image).json()["id"]
    with server.http.stream("GET", f"/v1/videos/{video}/events") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        states = [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: ")]
    assert states[-1]["status"] == "completed"
    assert [s["progress"] for s in states] == sorted(s["progress"] for s in states)
    assert {"denoise"} <= {s["stage"] for s in states}
    assert any(s["eta_seconds"] for s in states)


def test_trajectories(server):
    presets = {item["preset"]: item for item in server.http.get("/v1/trajectories").json()["data"]}
    assert presets["orbit"]["angle_deg"] == 30
    assert presets["dolly"]["angle_deg"] is None
    body = {"camera_trajectory": {"preset": "pan", "angle_deg": 40}, "num_frames": 9, "size": "64x48"}
    preview = server.http.post("/v1/trajectories/preview", json=body).json()
    assert (preview["num_frames"], preview["width"], len(preview["pose_c2w"])) == (9, 64, 9)
    assert preview["turn_deg"] == pytest.approx(40)
    good = server.http.post("/v1/trajectories/validate", json=body).json()
    narrow = server.http.post("/v1/trajectories/validate", json={**body, "size": "12x330"})
    assert narrow.status_code == 200, narrow.text
    assert (good["valid"], good["path_length"]) == (True, 0)
    assert server.http.post("/v1/trajectories/validate", json={**body, "num_frames": True}).status_code == 400
    bad = server.http.post("/v1/trajectories/validate", json={"camera_trajectory": {"preset": "fly"}}).json()
    assert (bad["valid"], "preset" in bad["message"]) == (False, True)


def test_health_metrics_and_unknown_paths(server):
    assert server.http.get("/livez").json()["status"] == "ok"
    ready = server.http.get("/readyz").json()
    assert ready["workers"]["ready"] + ready["workers"]["busy"] == 1
    metrics = server.http.get("/metrics").text
    for name in ("fw_jobs{status=", "fw_http_requests_total{", "fw_workers{state=", "fw_jobs_finished_total"):
        assert name in metrics
    missing = server.http.get("/v1/nothing")
    assert (missing.status_code, missing.json()["error"]["type"]) == (404, "not_found_error")
    wrong = server.http.put("/v1/videos")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, POST")


def test_the_description_is_whole(server):
    described = server.http.get("/openapi.json").json()
    assert "HTTPValidationError" not in json.dumps(described)
    create = described["paths"]["/v1/videos"]["post"]
    assert set(create["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    names = {name for path in described["paths"].values() for name in path}
    assert names == {"get", "post", "delete"}
    for reference in set(_references(described)):
        assert reference.removeprefix("#/components/schemas/") in described["components"]["schemas"]


@pytest.mark.slow
def test_the_description_holds_for_requests_that_nobody_thought_of(server, image):
    video = server.create("x", image).json()["id"]
    server.finished(video)
    cases, problems, report = fuzz(server, video, examples=4, phases="fuzzing")
    assert not problems, report
    assert cases > 20


def _references(part):
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from _references(value)
    elif isinstance(part, list):
        for value in part:
            yield from _references(value)


def test_before_a_model_was_ever_loaded_it_is_503(tmp_path, image):
    from fw_serve.api.app import create_app
    from fw_serve.jobs.store import JobStore
    from fw_serve.settings import Settings

    url = f"sqlite:///{tmp_path / 'jobs.db'}"
    store = JobStore(url)
    app = create_app(Settings(data=tmp_path, database=url), store)

    async def ask():
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as http:
            answer = await http.post("/v1/videos", data={"prompt": "x"}, files={"input_reference": image})
            ready = await http.get("/readyz")
            return answer, ready

    import asyncio

    answer, ready = asyncio.run(ask())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
    assert ready.status_code == 503
    store.close()
