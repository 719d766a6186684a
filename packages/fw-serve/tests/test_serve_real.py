"""`fw-serve up` once for real: small models with random weights, from the openai client to every file of a result."""

import io
import json
import os
import signal
import zipfile

import numpy as np
import openai
import pytest
from PIL import Image
from tests.stub_server.server_process import wait_until

FRAMES, WIDTH, HEIGHT = 5, 48, 32
PROMPT = "a sunny room with a chair beside the window"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("checkpoint"), seed=0)


def saved(folder, *, seed):
    """A pipeline with random weights."""
    import torch

    from fw_model.autoencoders.block_dct import BlockDCT
    from fw_model.config import CameraConfig, CrossBranchConfig, GeometryConfig, VideoConfig, WorldConfig
    from fw_model.encoders.hashing import HashTextEncoder
    from fw_model.model.model import FantasyWorld
    from fw_model.pipeline.pipeline import WorldPipeline
    from fw_model.pipeline.settings import Sampling

    config = WorldConfig(
        name="micro",
        video=VideoConfig(dim=48, heads=2, ffn_dim=64, blocks=6, in_dim=32, text_dim=12, text_len=7),
        geometry=GeometryConfig(
            width=24, heads=2, dpt_taps=(3, 2, 1, 0), camera_trunk=1, camera_heads=2, camera_iterations=2,
            dpt_features=8, dpt_channels=(8, 8, 12, 12), dpt_hidden=8,
        ),
        cross_branch=CrossBranchConfig(dim=24, heads=2),
        camera=CameraConfig(adapter_blocks=3, feature_dim=16, downscale=8, channels=8),
        pcb_blocks=2,
    )  # fmt: skip
    sampling = Sampling(num_frames=FRAMES, width=WIDTH, height=HEIGHT, num_inference_steps=2, guidance_scale=3.0)
    world, noise = FantasyWorld(config), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in world.parameters():  # a new model has zero gates, which would hide a LoRA
            parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    pipeline = WorldPipeline(world, BlockDCT(), HashTextEncoder(text_len=7, text_dim=12), sampling=sampling)
    return pipeline.save(folder)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    import torch

    from fw_model.lora.save import save_lora

    torch.manual_seed(1)
    factors = {"irg.1.video.cross_attn.o": (torch.randn(2, 48), torch.randn(48, 2))}
    return save_lora(tmp_path_factory.mktemp("lora"), factors, pcb_blocks=2)


@pytest.fixture(scope="module")
def real(checkpoint, lora, tmp_path_factory, module_server):
    other = saved(tmp_path_factory.mktemp("other"), seed=5)
    arguments = ["--model", f"other={other}", "--lora", f"bold={lora}:2", "--max-frames", "1021"]
    arguments += ["--max-pixels", str(1280 * 720), "--min-free-mb", "0"]
    server = module_server(tmp_path_factory.mktemp("real"), checkpoint=checkpoint, arguments=arguments)
    wait_until(lambda: server.http.get("/readyz").json()["workers"]["ready"] == 2, what="both models")
    return server


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_world_through_the_openai_client(real, image, tmp_path, capsys):
    api = openai.OpenAI(base_url=f"{real.url}/v1", api_key="unused")
    video = api.videos.create_and_poll(
        prompt=PROMPT,
        input_reference=("room.png", image),
        extra_body={"seed": 3, "camera_trajectory": '{"preset": "dolly"}'},
    )
    assert video.status == "completed", video.error
    assert (video.model, video.size) == ("fantasy-world-micro", "48x32")
    (note,) = (video.model_extra or {})["notes"]  # the encoder reads 7 words
    assert "the window" in note

    def content(variant, **query):
        return api.videos.download_content(video.id, variant=variant, extra_query=query).read()

    import av

    for variant in ("video", "depth", "confidence"):
        with av.open(io.BytesIO(content(variant)), "r") as container:
            decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert np.stack(decoded).shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert Image.open(io.BytesIO(content("thumbnail"))).size == (48, 32)
    assert Image.open(io.BytesIO(content("spritesheet"))).size == (3 * 48, 2 * 32)
    assert content("pointcloud").startswith(b"glTF")
    assert content("pointcloud", format="ply").startswith(b"ply")
    geometry = np.load(io.BytesIO(content("geometry")), allow_pickle=False)
    assert geometry["depth"].shape == (FRAMES, HEIGHT, WIDTH)
    assert len(json.loads(content("cameras"))["cameras_interp"]) == FRAMES
    requested = np.array(json.loads(content("cameras", format="requested"))["cameras_interp"])
    assert requested[-1, 2, 3] == pytest.approx(0.3)
    names = set(zipfile.ZipFile(io.BytesIO(content("colmap"))).namelist())
    assert {"images/frame_00000.png", "sparse/0/cameras.bin", "sparse/0/images.bin", "sparse/0/points3D.bin"} <= names
    assert len(zipfile.ZipFile(io.BytesIO(content("depth", format="zip"))).namelist()) == FRAMES + 1
    world = json.loads(content("world"))
    assert (world["settings"]["prompt"], world["notes"]) == (PROMPT, [note])

    from fw_app.options import GenerateOptions
    from fw_app.remote import generate_remotely
    from fw_model.export import read_world
    from fw_model.pipeline.settings import GenerationSettings
    from fw_serve.client import Client

    (tmp_path / "room.png").write_bytes(image)
    options = GenerateOptions(
        image=tmp_path / "room.png", out=tmp_path / "out", server=real.url, prompt=PROMPT, trajectory="dolly",
        settings=GenerationSettings(seed=3, width=48, height=32),
    )  # fmt: skip
    generate_remotely(options)
    assert f"note: {note}\n" in capsys.readouterr().out
    assert (tmp_path / "out" / "video.mp4").read_bytes() == content("video"), "the same seed gives the same world"
    assert np.array_equal(np.load(tmp_path / "out" / "geometry.npz")["depth"], geometry["depth"])
    assert read_world(tmp_path / "out").video.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert len(list((tmp_path / "out" / "depth").glob("*.png"))) == FRAMES
    for name in ("gaussians/images/frame_00000.png", "gaussians/sparse/0/points3D.bin", "colmap/sparse/0/cameras.bin"):
        assert (tmp_path / "out" / name).is_file(), name
    everything = zipfile.ZipFile(io.BytesIO(content("all")))
    everything.extractall(tmp_path / "all")
    assert np.array_equal(read_world(tmp_path / "all").video, read_world(tmp_path / "out").video)
    with Client(real.url) as client:
        longer = client.extend(video.id, trajectory={"preset": "pan"})
        assert client.wait(longer.id).extended_from_video_id == video.id
        expected = client.estimate(num_frames=FRAMES)
    card = real.http.get("/v1/models").json()["data"][0]
    assert "48x32" in card["about"]
    assert expected.seconds is not None
    assert expected.memory_bytes is not None
    assert 0 < expected.memory_bytes < (expected.memory_available_bytes or 0)
    with pytest.raises(ValueError, match="--device"):
        generate_remotely(GenerateOptions(image=options.image, out=options.out, server=real.url, device="cpu"))


@pytest.mark.slow
def test_models_and_loras_are_chosen_per_request(real, checkpoint, lora, image, tmp_path):
    from fw_model.pipeline.pipeline import WorldPipeline
    from fw_serve.client import Client
    from fw_serve.intake.camera import read_camera

    cards = {card["id"]: card for card in real.http.get("/v1/models").json()["data"]}
    assert {name: card["loras"] for name, card in cards.items()} == {"fantasy-world-micro": ["bold"], "other": ["bold"]}
    assert next(iter(cards)) == "fantasy-world-micro", "the default, which depth() below uses"
    (tmp_path / "room.png").write_bytes(image)
    with Client(real.url) as client:

        def depth(**options):
            made = client.create(tmp_path / "room.png", "a room", trajectory={"preset": "pan"}, seed=1, **options)
            client.wait(made.id)
            content = real.http.get(f"/v1/videos/{made.id}/content", params={"variant": "geometry"}).content
            return np.load(io.BytesIO(content))["depth"]

        plain, bold, again = depth(), depth(lora="bold"), depth()
        other = depth(model="other")
    assert np.array_equal(plain, again), "a LoRA is removed after its job"
    assert not np.allclose(plain, other, rtol=1e-3)
    pipeline = WorldPipeline.from_pretrained(checkpoint)
    camera = read_camera({"preset": "pan"}, num_frames=FRAMES, default_num_frames=FRAMES, width=WIDTH, height=HEIGHT)
    for scale, served in ((None, plain), (2.0, bold)):
        if scale is not None:
            pipeline.load_lora(lora, scale)
        *_, last = pipeline.generate(tmp_path / "room.png", "a room", camera.trajectory(), seed=1)
        assert last.world is not None
        assert np.allclose(last.world.depth, served, rtol=1e-3, atol=1e-5)
    assert not np.allclose(plain, bold, rtol=1e-2)
    refused = real.create("x", image, lora="unlisted")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "lora")
    assert "bold" in refused.json()["error"]["message"]


@pytest.mark.slow
def test_a_group_makes_the_world_of_one_process_also_after_a_cancel_and_a_killed_process(
    checkpoint, lora, image, make_server, tmp_path
):
    from fw_model.pipeline.pipeline import WorldPipeline
    from fw_serve.intake.camera import read_camera

    arguments = ["--parallel", "2", "--lora", f"bold={lora}:2", "--max-steps", "1000", "--min-free-mb", "0"]
    server = make_server(checkpoint=checkpoint, arguments=arguments).start()
    group = server.worker_pids()
    assert len(group) == 2
    stopped = server.create("x", image, num_inference_steps=1000).json()["id"]
    wait_until(lambda: server.get(stopped)["step"] > 1)
    assert server.http.post(f"/v1/videos/{stopped}/cancel").json()["error"]["code"] == "cancelled"

    chosen = {"num_inference_steps": 40, "guidance_scale": 1.0, "seed": 1}  # without guidance, tokens are divided
    video = server.create("a room", image, lora="bold", camera_trajectory='{"preset": "pan"}', **chosen).json()["id"]
    wait_until(lambda: server.get(video)["step"] > 1)
    assert server.worker_pids() == group, "a cancel keeps the group"
    os.kill(group[1], signal.SIGKILL)
    end = server.finished(video)
    assert (end["status"], end["attempts"]) == ("completed", 2)
    assert not set(group) & set(server.worker_pids())
    served = np.load(io.BytesIO(server.http.get(f"/v1/videos/{video}/content?variant=geometry").content))

    pipeline = WorldPipeline.from_pretrained(checkpoint)
    pipeline.load_lora(lora, 2.0)
    (tmp_path / "room.png").write_bytes(image)
    camera = read_camera({"preset": "pan"}, num_frames=FRAMES, default_num_frames=FRAMES, width=WIDTH, height=HEIGHT)
    world = pipeline(tmp_path / "room.png", "a room", camera.trajectory(), **chosen)
    for name in ("depth", "points"):
        expected = getattr(world, name)
        np.testing.assert_allclose(served[name], expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_the_memory_of_the_first_job_is_planned(checkpoint):
    from fw_serve.worker.world_engine import load

    engine = load(str(checkpoint), None, "cpu", None, "none", False)
    card, small = engine.card, (FRAMES, HEIGHT, WIDTH)
    assert card.measured_pixels == 0
    need = card.peak_bytes(*small)
    assert need is not None
    assert need > card.fixed_bytes
    assert card.memory_bytes is not None
    assert need < card.memory_bytes < card.peak_bytes(1021, 8 * 720, 8 * 1280)  # type: ignore[operator]
    assert all(not weight.is_meta for weight in engine.pipeline.world.parameters()), "planning leaves the model alone"


@pytest.mark.slow
def test_a_request_beyond_the_memory_is_refused_with_the_figures(real, image):
    assert real.finished(real.create("measured", image).json()["id"])["status"] == "completed"

    def estimate():
        return real.http.post("/v1/videos/estimate", json={"prompt": "x", **large}).json()

    large = {"num_frames": 1021, "size": "1280x720"}
    wait_until(lambda: estimate()["memory_bytes"] is not None, what="a measurement")
    need, have = estimate()["memory_bytes"], estimate()["memory_available_bytes"]
    assert need > have
    refused = real.create("x", image, **large)
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "too_large_for_memory", "size")
    assert f"{need / 1e9:.1f} GB" in error["message"]
    assert f"{have / 1e9:.1f} GB" in error["message"]
    assert real.create("fits", image, num_frames=9).status_code == 200
