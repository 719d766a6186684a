"""Our own client, and the commands."""

import subprocess
import sys

import httpx
import pytest
from tests.stub_server.server_process import free_port
from tests.stub_server.stub_engine import FILES

from fw_serve.cli import main
from fw_serve.client import Client, ServiceError
from fw_serve.jobs.store import JobStore


@pytest.fixture
def client(server):
    with Client(server.url, retries=0) as client:
        yield client


def test_a_world_from_image_to_files(client, image, tmp_path):
    (tmp_path / "room.png").write_bytes(image)
    video = client.create(tmp_path / "room.png", "a room steps=3 pause=0.3", trajectory="truck", size="64x48", seed=3)
    states = []
    done = client.wait(video.id, on_change=states.append)
    assert (done.status, done.camera, done.size, done.seed) == ("completed", "truck", "64x48", 3)
    assert len(states) >= 2
    path = client.download(video.id, "pointcloud", tmp_path / "room.ply", format="ply")
    assert path.read_bytes() == FILES["points.ply"]
    assert video.id in [item.id for item in client.list()]
    assert client.remix(video.id, "blue").remixed_from_video_id == video.id
    assert "orbit" in {preset.preset for preset in client.presets()}
    assert [model.id for model in client.models()] == ["stub"]
    client.delete(video.id)
    with pytest.raises(ServiceError) as gone:
        client.get(video.id)
    assert (gone.value.status, gone.value.code) == (404, "video_not_found")


def test_listed_timesteps_reach_the_worker(client, server, image, tmp_path):
    (tmp_path / "room.png").write_bytes(image)
    video = client.create(tmp_path / "room.png", "a room", timesteps=[1000, 937.5, 625], shift=1.0)
    assert client.wait(video.id).status == "completed"
    store = JobStore(f"sqlite:///{server.folder / 'data' / 'jobs.db'}")
    try:
        job = store.get(video.id)
    finally:
        store.close()
    assert job is not None
    assert (job.request.settings.timesteps, job.request.settings.shift) == ((1000.0, 937.5, 625.0), 1.0)


def test_failures_are_told(client, image, tmp_path):
    with pytest.raises(ServiceError, match="this cannot be made") as failed:
        client.wait(client.create(image, "wrong").id)
    assert failed.value.code == "invalid_request"
    with pytest.raises(ServiceError, match=r"size.*16") as refused:
        client.create(image, "x", size="50x50")
    assert refused.value.status == 400
    gate = tmp_path / "gate"
    held = client.create(image, f"hold={gate}")
    with pytest.raises(ServiceError, match=r"queued|in_progress"):
        client.download(held.id, "video", tmp_path / "v.mp4")
    assert list(tmp_path.iterdir()) == [], "a broken download leaves nothing"
    assert client.cancel(held.id).error.code == "cancelled"
    gate.touch()  # the worker may be in this job's first step already


def test_requests_are_repeated_when_that_is_safe(image):
    asked, slept = [], []

    def answer(request):
        asked.append((request.method, request.headers.get("idempotency-key")))
        if len(asked) == 1:
            raise httpx.ConnectError("down")
        if len(asked) == 2:
            return httpx.Response(429, headers={"Retry-After": "7"}, json={"error": {"message": "full"}})
        return httpx.Response(404, json={"error": {"message": "gone", "code": "x"}})

    client = Client("http://x", transport=httpx.MockTransport(answer), sleep=slept.append)
    with pytest.raises(ServiceError, match="gone"):
        client.create(image, "x")
    assert len({key for _, key in asked}) == 1
    assert slept == [0.5, 7.0]
    asked.clear()
    with pytest.raises(ServiceError, match="http://x"):
        client.cancel("video_1")
    assert len(asked) == 1, "a request that is not safe to repeat is sent once"
    plain = Client("http://x", transport=httpx.MockTransport(lambda _: httpx.Response(502, text="<proxy>")), retries=0)
    with pytest.raises(ServiceError, match=r"502: <proxy>"):
        plain.get("video_1")


def test_following_survives_a_lost_stream(server, image, tmp_path):
    with Client(server.url, sleep=lambda _: None) as client:
        video = client.create(image, "steps=3 pause=0.1")
        whole, broken = client._events, []

        def once(video_id):
            if not broken:
                broken.append(True)
                raise httpx.ReadError("cut")
            return whole(video_id)

        client._events = once
        assert client.wait(video.id).status == "completed"
        assert broken


def test_fw_generate_reports_every_refusal_in_one_line(server, image, tmp_path, capsys):
    from fw_app import cli

    photo = tmp_path / "room.png"
    photo.write_bytes(image)
    closed = f"http://127.0.0.1:{free_port()}"
    for place, arguments, words in (
        (server.url, ["--width", "50", "--height", "50"], "50"),
        (server.url, ["--num-frames", "6"], "num_frames"),
        (server.url, ["--num-inference-steps", "101"], "the maximum is 100"),
        (server.url, ["--prompt", "oom"], "Out of memory"),
        (closed, [], closed),
    ):
        command = ["generate", str(photo), "--prompt", "x", "--server", place, "--out", str(tmp_path / "out")]
        assert cli.main([*command, *arguments]) != 0
        lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
        assert len(lines) == 1, lines
        assert words in lines[0]


def test_keys_from_the_command_line(tmp_path, capsys):
    where = ["--data", str(tmp_path / "data")]
    assert main(["key", "add", "anna", "--per-minute", "5", *where]) == 0
    key = capsys.readouterr().out.split()[0]
    assert key.startswith("fw-")
    public = key.split("-")[1]
    assert main(["key", "list", *where]) == 0
    shown = capsys.readouterr().out
    assert public in shown
    assert "5 per minute" in shown
    assert key not in shown
    assert main(["key", "revoke", public, *where]) == 0
    assert main(["key", "revoke", public, *where]) == 2
    assert public in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["key", "add", *where])
    assert stopped.value.code == 2
    assert "NAME" in capsys.readouterr().err


def test_wrong_use_is_explained(tmp_path, capsys):
    cases = {
        ("nothing",): "'nothing'",
        ("up", "missing-folder"): "missing-folder",
        ("up", "a/b", "--host", "0.0.0.0", "--data", str(tmp_path)): "fw-serve key add",
        ("up", "a/b", "--queue", "0"): "--queue",
        ("up", "a/b", "--keys", "on", "--data", str(tmp_path)): "--keys on",
        ("up", "a/b", "--workers", "2"): "--engine ray",
        ("up", "a/b", "--engine", "ray", "--device", "cuda:0"): "--gpus-per-worker",
        ("up", "a/b", "--engine", "ray", "--workers", "0"): "--workers",
        ("up", "a/b", "--engine", "ray", "--only", "api"): "--only",
    }
    for words, expected in cases.items():
        assert main(list(words)) == 2
        assert expected in capsys.readouterr().err
    assert main(["--help"]) == 0
    assert main([]) == 2


def test_the_two_halves_of_a_service(monkeypatch, tmp_path, capsys):
    watched, answering = [], []
    monkeypatch.setattr(
        "fw_serve.supervisor.Supervisor.start", lambda self: watched.append(self.slots[0].settings.options["device"])
    )
    monkeypatch.setattr("fw_serve.supervisor.Supervisor.stop", lambda _: watched.append("stopped"))
    monkeypatch.setattr("fw_serve.up.until_stopped", lambda: watched.append("waited"))
    monkeypatch.setattr("uvicorn.run", lambda app, **_: answering.append(app))
    where = ["up", "a/b", "--data", str(tmp_path), "--device", "cpu"]
    assert main([*where, "--only", "workers"]) == 0
    assert (watched, answering) == (["cpu", "waited", "stopped"], [])
    assert main([*where, "--only", "api"]) == 0
    assert (len(watched), len(answering)) == (3, 1)
    assert "serving a/b" in capsys.readouterr().out


def test_the_service_holds_no_torch():
    code = (
        "import sys, fw_serve.api.app, fw_serve.supervisor, fw_serve.up, fw_serve.client\n"
        "heavy = {'torch', 'ray', 'transformers', 'diffusers', 'av'} & set(sys.modules)\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
