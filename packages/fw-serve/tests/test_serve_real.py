"""`fw-serve up` once for real: a small model with random weights, from the openai client to every file of a result."""

import io
import json
import zipfile

import numpy as np
import openai
import pytest
from PIL import Image

FRAMES, WIDTH, HEIGHT = 5, 48, 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    import torch

    from fw_model.autoencoders.block_dct import BlockDCT
    from fw_model.config import CameraConfig, CrossBranchConfig, GeometryConfig, VideoConfig, WorldConfig
    from fw_model.encoders.hashing import HashTextEncoder
    from fw_model.model.model import FantasyWorld
    from fw_model.pipeline.pipeline import WorldPipeline
    from fw_model.pipeline.settings import Sampling

    torch.manual_seed(0)
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
    pipeline = WorldPipeline(
        FantasyWorld(config), BlockDCT(), HashTextEncoder(text_len=7, text_dim=12), sampling=sampling
    )
    return pipeline.save(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def real(checkpoint, tmp_path_factory, module_server):
    return module_server(tmp_path_factory.mktemp("real"), checkpoint=checkpoint)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_world_through_the_openai_client(real, image, tmp_path):
    api = openai.OpenAI(base_url=f"{real.url}/v1", api_key="unused")
    video = api.videos.create_and_poll(
        prompt="a sunny room",
        input_reference=("room.png", image),
        extra_body={"seed": 3, "camera_trajectory": '{"preset": "dolly"}'},
    )
    assert video.status == "completed", video.error
    assert (video.model, video.size) == ("fantasy-world-micro", "48x32")

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
    assert json.loads(content("world"))["settings"]["prompt"] == "a sunny room"

    from fw_app.options import GenerateOptions
    from fw_app.remote import generate_remotely
    from fw_model.export import read_world
    from fw_model.pipeline.settings import GenerationSettings
    from fw_serve.client import Client

    (tmp_path / "room.png").write_bytes(image)
    options = GenerateOptions(
        image=tmp_path / "room.png", out=tmp_path / "out", server=real.url, prompt="a sunny room", trajectory="dolly",
        settings=GenerationSettings(seed=3, width=48, height=32),
    )  # fmt: skip
    generate_remotely(options)
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
