"""Generation from end to end with a micro model: results, invariances and refusals."""

import contextlib
import dataclasses
import itertools
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fw_geometry import Trajectory, make_trajectory, plucker_rays, plucker_rays_double_scaled
from fw_model.autoencoders.base import first_frame_condition
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.autoencoders.wan_vae import WanVAE
from fw_model.config import Compat
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.model.rays import RayMap
from fw_model.parallel.sequence import SequenceGroup
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_model.pipeline.settings import Sampling
from fw_model.sampling.flow import FlowSchedule, counter_noise

FRAMES, HEIGHT, WIDTH = 5, 32, 48
SAMPLING = Sampling(num_frames=FRAMES, height=HEIGHT, width=WIDTH, num_inference_steps=2, guidance_scale=3.0)


@pytest.fixture(scope="module")
def config(micro):
    """The micro model as the tiny preset is: 16 condition channels, no CLIP, full-size Pluecker maps."""
    video = dataclasses.replace(micro.video, in_dim=32, clip_dim=None)
    return dataclasses.replace(micro, video=video, camera=dataclasses.replace(micro.camera, downscale=8))


@pytest.fixture(scope="module")
def pipe(config, make_world):
    return WorldPipeline(make_world(config), BlockDCT(), HashTextEncoder(text_len=7, text_dim=12), sampling=SAMPLING)


@pytest.fixture(scope="module")
def image():
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def path():
    return make_trajectory("dolly", FRAMES, width=WIDTH, height=HEIGHT)


def _run(pipe, *args, **options) -> World:
    *_, last = pipe.generate(*args, **options)
    assert last.world is not None
    return last.world


def test_a_world_comes_out(pipe, image, path):
    reports = list(pipe.generate(image, "a red room", path, seed=3))
    stages = [(report.stage, report.step, report.steps) for report in reports]
    assert stages == [
        ("encode", 0, 1), ("encode", 1, 1), ("denoise", 1, 2), ("denoise", 2, 2), ("decode", 0, 1), ("decode", 1, 1)
    ]  # fmt: skip
    assert [report.world is None for report in reports] == [True] * 5 + [False]
    assert all(a.seconds <= b.seconds for a, b in itertools.pairwise(reports))
    assert reports[2].eta_seconds is not None
    world: Any = reports[-1].world
    assert world.video.shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert world.video.dtype == np.uint8
    assert world.depth.shape == world.depth_confidence.shape == world.points_confidence.shape == (FRAMES, HEIGHT, WIDTH)
    assert world.points.shape == world.points_from_depth().shape == (FRAMES, HEIGHT, WIDTH, 3)
    assert world.depth.min() > 0
    assert world.depth_confidence.min() > 1
    assert len(world.trajectory) == len(world.requested) == FRAMES
    np.testing.assert_allclose(world.trajectory.pose_c2w[0], np.eye(4), atol=1e-9)
    assert world.camera_error().rotation_deg >= 0
    assert world.settings["seed"] == 3
    json.dumps(world.settings)


def test_the_loop_is_the_plain_euler_loop(pipe, image, path):
    """Latents worked out here by hand, from raw inputs, give the same video and geometry."""
    world = _run(pipe, image, "a red room", path, seed=3)
    model, schedule = pipe.world, FlowSchedule(steps=2, shift=5.0)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float()[None, :, None] / 127.5 - 1
    first = BlockDCT().encode(pixels)
    y = torch.cat([first, torch.zeros(1, 16, 1, HEIGHT // 8, WIDTH // 8)], dim=2)
    K, poses = torch.from_numpy(path.K), torch.from_numpy(path.pose_c2w)
    rays = plucker_rays(K, poses, HEIGHT, WIDTH).float()[None]
    inputs: Any = {"y": y, "plucker": RayMap(rays=rays, convention="correct")}
    texts = pipe.text_encoder.encode(["a red room", ""])
    positive: Any = None
    x = counter_noise(3, 0, 0, (16, 2, HEIGHT // 8, WIDTH // 8))[None]
    with torch.no_grad():
        for i, t in enumerate(schedule.timesteps):
            positive = model(x, t[None], context=texts[:1], **inputs)
            negative = model(x, t[None], context=texts[1:], **inputs)
            v = negative.velocity + 3.0 * (positive.velocity - negative.velocity)
            x = x + v * (schedule.sigmas[i + 1] - schedule.sigmas[i])
    video = ((BlockDCT().decode(x)[0].clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 3, 0).numpy()
    assert np.abs(world.video.astype(float) - video).max() <= 1
    np.testing.assert_allclose(world.depth, positive.geometry.depth[0].numpy(), rtol=2e-4)
    np.testing.assert_allclose(world.points, positive.geometry.points[0].numpy(), rtol=1e-3, atol=1e-4)


def test_listed_timesteps_are_the_steps(pipe, image, path):
    """The even list of two steps is the plain schedule of two steps; another list and another shift are not."""
    plain = _run(pipe, image, "a", path, num_inference_steps=2)
    listed = _run(pipe, image, "a", path, timesteps=[1000, 500])
    np.testing.assert_array_equal(plain.video, listed.video)
    np.testing.assert_array_equal(plain.depth, listed.depth)
    assert json.loads(json.dumps(listed.settings))["timesteps"] == [1000, 500]
    for change in ({"timesteps": [1000, 800]}, {"timesteps": [1000, 500], "shift": 1.0}):
        assert np.abs(_run(pipe, image, "a", path, **change).video.astype(int) - plain.video).max() > 3
    assert len([r for r in pipe.generate(image, "a", path, timesteps=[1000, 900, 300]) if r.stage == "denoise"]) == 3
    with pytest.raises(ValueError, match="timesteps is"):
        pipe.generate(image, "a", path, timesteps=[500, 1000])


def test_what_matters_and_what_does_not(pipe, image, path):
    base = _run(pipe, image, "a red room", path, seed=3)
    again = _run(pipe, image, "a red room", path, seed=3)
    np.testing.assert_array_equal(base.video, again.video)
    # the world frame of the path is of no account
    moved = dataclasses.replace(
        path, pose_c2w=np.array(make_trajectory("orbit", 3, width=8, height=8).pose_c2w[2]) @ path.pose_c2w
    )
    same = _run(pipe, image, "a red room", moved, seed=3)
    assert np.abs(same.video.astype(int) - base.video.astype(int)).max() <= 1
    other = {
        "seed": {"seed": 4},
        "guidance_scale": {"guidance_scale": 1.0},
        "num_inference_steps": {"num_inference_steps": 3},
        "shift": {"shift": 2.0},
        "sampler": {"sampler": "unipc", "num_inference_steps": 3},
        "cross_branch": {"cross_branch": False},
        "negative": {"negative_prompt": "blur"},
    }
    for name, options in other.items():
        world = _run(pipe, image, "a red room", path, **{"seed": 3, **options})
        assert not np.array_equal(world.video, base.video), name
    assert not np.array_equal(_run(pipe, image, "a blue room", path, seed=3).video, base.video)
    still = make_trajectory("still", FRAMES, width=WIDTH, height=HEIGHT)
    assert not np.array_equal(_run(pipe, image, "a red room", still, seed=3).video, base.video)
    wide = dataclasses.replace(path, K=path.K * np.array([0.7, 0.7, 1])[:, None])
    assert not np.array_equal(_run(pipe, image, "a red room", wide, seed=3).video, base.video)


def test_lengths_come_back_in_the_unit_of_the_path(pipe, image, path):
    base = _run(pipe, image, "x", path, seed=1)
    scaled = _run(pipe, image, "x", path.scaled(5.0), seed=1, scene_scale=5.0)
    np.testing.assert_allclose(scaled.depth, 5 * base.depth, rtol=1e-4)
    np.testing.assert_allclose(scaled.points, 5 * base.points, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scaled.requested.pose_c2w, path.scaled(5.0).pose_c2w, atol=1e-9)
    np.testing.assert_allclose(
        scaled.trajectory.pose_c2w[:, :3, 3], 5 * base.trajectory.pose_c2w[:, :3, 3], rtol=1e-3, atol=1e-5
    )


def test_images_and_paths_of_another_size_are_cropped_alike(pipe):
    """A bright square in the photo's center stays centered, and K follows the same resize and crop."""
    pixels = np.zeros((200, 100, 3), dtype=np.uint8)
    pixels[80:120, 40:60] = 255
    photo_path = make_trajectory("truck", FRAMES, width=100, height=200)
    world = _run(pipe, pixels, "", photo_path, height=HEIGHT, width=WIDTH, num_inference_steps=1)
    assert (world.requested.width, world.requested.height) == (WIDTH, HEIGHT)
    K, original = world.requested.K[0], photo_path.K[0]
    assert K[0, 0] == pytest.approx(original[0, 0] * WIDTH / 100, rel=0.02)  # covers by width, cuts rows
    assert K[0, 0] == pytest.approx(K[1, 1], rel=0.02)
    assert K[:2, 2] == pytest.approx([WIDTH / 2, HEIGHT / 2], abs=0.6)
    from fw_model.pipeline.inputs import prepare_image

    fitted = prepare_image(pixels, HEIGHT, WIDTH, "crop")
    rows, columns = np.nonzero(fitted[0].numpy() > 0)
    assert rows.mean() == pytest.approx(HEIGHT / 2 - 0.5, abs=1)
    assert columns.mean() == pytest.approx(WIDTH / 2 - 0.5, abs=1)
    assert np.ptp(rows) + 1 == pytest.approx(2 * (np.ptp(columns) + 1), abs=2)  # aspect kept
    stretched = prepare_image(pixels, HEIGHT, WIDTH, "stretch")
    rows, columns = np.nonzero(stretched[0].numpy() > 0)
    assert np.ptp(columns) > np.ptp(rows)


def test_closing_stops_between_steps(pipe, image, path, monkeypatch):
    calls = []
    forward = type(pipe.world).forward
    monkeypatch.setattr(type(pipe.world), "forward", lambda self, *a, **k: (calls.append(1), forward(self, *a, **k))[1])
    reports = pipe.generate(image, "x", path, num_inference_steps=20, guidance_scale=1.0)
    for report in reports:
        if report.stage == "denoise" and report.step == 3:
            break
    reports.close()
    assert len(calls) == 3
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"num_frames": 4}, "num_frames is 4.*5"),
        ({"num_frames": 9}, "resampled"),
        ({"height": 40}, r"height is 40.*(32|48)"),
        ({"width": 8}, "width is 8.*16"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"scene_scale": 0.0}, "scene_scale"),
        ({"scene_scale": float("nan")}, "scene_scale"),
        ({"sampler": "ddim"}, "(?s)ddim.*euler"),
        ({"shift": float("nan")}, "shift is nan"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf"),
        ({"easycache": -0.1}, "easycache is -0.1"),
        ({"last_image": np.zeros((8, 8, 3), dtype=np.uint8)}, "last_image"),
    ],
)
def test_bad_requests_are_refused_before_any_work(pipe, image, path, changes, hint):
    with pytest.raises((ValueError, TypeError), match=hint):  # in tests, the type checker comes first
        pipe.generate(image, "x", path, **changes)


@pytest.mark.parametrize(
    ("processes", "frames", "hint"), [(2, 5, None), (3, 5, "2 latent frames"), (3, 17, "attention with 2 heads")]
)
def test_a_world_that_a_group_cannot_divide_is_refused_before_any_work(
    pipe, image, monkeypatch, processes, frames, hint
):
    group = SimpleNamespace(divided=lambda _guided: (SequenceGroup(size=processes, rank=0), None))
    monkeypatch.setattr(pipe, "parallel", group)
    path = make_trajectory("dolly", frames, width=WIDTH, height=HEIGHT)
    with pytest.raises(ValueError, match=hint) if hint else contextlib.nullcontext():
        pipe.prepare(image, "x", path)


def test_bad_images_and_paths_are_refused(pipe, image, path, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    for bad, hint in (
        (tmp_path / "text.png", r"text\.png.*JPEG"),
        (tmp_path / "none.png", r"none\.png"),
        (np.zeros((8, 8)), "uint8"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=hint):
            pipe.generate(bad, "x", path)
    for entry, hint in ((np.nan, "finite"), (3.0, "rotation")):
        poses = path.pose_c2w.copy()
        poses[2, 0, 0] = entry
        with pytest.raises(ValueError, match=hint):
            Trajectory(pose_c2w=poses, K=path.K, width=WIDTH, height=HEIGHT)


def test_a_folder_brings_the_pipeline_back(pipe, image, path, tmp_path):
    pipe.save(tmp_path / "world")
    again = WorldPipeline.from_pretrained(tmp_path / "world")
    assert again.sampling == SAMPLING
    a, b = (_run(p, image, "a room", path, num_inference_steps=1) for p in (pipe, again))
    np.testing.assert_array_equal(a.video, b.video)
    np.testing.assert_array_equal(a.depth, b.depth)


def test_a_trained_vae_travels_along(config, make_world, image, path, tmp_path):
    text = HashTextEncoder(text_len=7, text_dim=12)
    pipe = WorldPipeline(make_world(config), WanVAE.small(seed=4), text, sampling=SAMPLING)
    again = WorldPipeline.from_pretrained(pipe.save(tmp_path))
    a, b = (_run(p, image, "a room", path, num_inference_steps=1, guidance_scale=1.0) for p in (pipe, again))
    np.testing.assert_array_equal(a.video, b.video)


def test_incomplete_folders_say_what_is_missing(pipe, tmp_path):
    pipe.world.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"pipeline\.json"):
        WorldPipeline.from_pretrained(tmp_path)
    spec = {"autoencoder": {"kind": "block_dct"}, "text_encoder": {"kind": "umt5", "source": "./umt5", "text_len": 512}}
    (tmp_path / "pipeline.json").write_text(json.dumps(spec))
    with pytest.raises(ValueError, match="umt5"):
        WorldPipeline.from_pretrained(tmp_path)
    (tmp_path / "pipeline.json").write_text(json.dumps({"autoencoder": {"kind": "block_dct"}}))
    with pytest.raises(ValueError, match="text_encoder"):
        WorldPipeline.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="nowhere"):
        WorldPipeline.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"micro.*tiny"):
        WorldPipeline.from_pretrained(pipe.save(tmp_path / "whole"), preset="tiny")
    with pytest.raises(ValueError, match=r"7 .*12"):
        WorldPipeline(pipe.world, BlockDCT(), HashTextEncoder())


def test_two_experts_share_the_noise_levels(config, make_world, image, path, tmp_path):
    low = make_world(config, timestep_range=(0.0, 900.0))
    high = make_world(config, timestep_range=(900.0, 1000.0))
    with torch.no_grad():
        high.video.head.head.bias.add_(1.0)
    text = HashTextEncoder(text_len=7, text_dim=12)
    pipe = WorldPipeline(low, BlockDCT(), text, high_noise=high, sampling=SAMPLING)
    counts = {"low": 0, "high": 0}
    for name, model in (("low", low), ("high", high)):
        model.register_forward_hook(lambda *_, name=name: counts.__setitem__(name, counts[name] + 1))
    a = _run(pipe, image, "x", path, num_inference_steps=5, guidance_scale=1.0)
    share = int((FlowSchedule(steps=5).timesteps > 900).sum())
    assert counts == {"low": 5 - share, "high": share}
    again = WorldPipeline.from_pretrained(pipe.save(tmp_path))
    np.testing.assert_array_equal(
        _run(again, image, "x", path, num_inference_steps=5, guidance_scale=1.0).video, a.video
    )
    alone = WorldPipeline(low, BlockDCT(), text, sampling=SAMPLING)
    with pytest.raises(ValueError, match="experts"):
        alone.generate(image, "x", path)


def test_released_rays_for_released_weights(config, path):
    for compat, rays in ((Compat(), plucker_rays), (Compat.released(), plucker_rays_double_scaled)):
        expected = rays(torch.from_numpy(path.K), torch.from_numpy(path.pose_c2w), HEIGHT, WIDTH).float()
        made = RayMap.from_trajectory(dataclasses.replace(config, compat=compat), path)
        assert made is not None
        assert made.convention == compat.plucker
        torch.testing.assert_close(made.rays[0], expected)


def test_relative_rays_tell_the_change_of_direction(config, path):
    config = dataclasses.replace(config, camera=dataclasses.replace(config.camera, downscale=8))
    relative_config = dataclasses.replace(config, compat=Compat(plucker="relative"))
    made = [RayMap.from_trajectory(one, path) for one in (relative_config, config)]
    relative, plain = (rays.rays[0] for rays in made if rays is not None)
    torch.testing.assert_close(relative[..., :3], plain[..., :3])
    torch.testing.assert_close(relative[..., 3:] + plain[:1, ..., 3:], plain[..., 3:])
    assert not relative[0].any()
    assert relative[-1].any()


def test_rays_of_absolute_poses_are_refused(config, path):
    K, poses = torch.from_numpy(path.K)[None], torch.from_numpy(path.pose_c2w)[None]
    with pytest.raises(ValueError, match="identity"):
        RayMap.from_cameras(config, K[:, 1:], poses[:, 1:], HEIGHT, WIDTH)
    assert RayMap.from_cameras(config, K, poses, HEIGHT, WIDTH).rays.shape == (1, FRAMES, HEIGHT, WIDTH, 6)


def test_rays_are_exact_under_autocast(config, path):
    K, poses = torch.from_numpy(path.K)[None].float(), torch.from_numpy(path.pose_c2w)[None].float()
    exact = RayMap.from_cameras(config, K, poses, HEIGHT, WIDTH)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(RayMap.from_cameras(config, K, poses, HEIGHT, WIDTH).rays, exact.rays)


def test_first_frame_conditions():
    dct = BlockDCT()
    image = torch.rand(2, 3, 1, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert first_frame_condition(dct, image, 9, 0) is None
    y: Any = first_frame_condition(dct, image, 9, 16)
    torch.testing.assert_close(y[:, :, :1], dct.encode(image))
    assert float(y[:, :, 1:].abs().max()) == 0
    masked: Any = first_frame_condition(dct, image + 0.1, 9, 20)
    assert masked.shape == (2, 20, 3, 2, 3)
    assert float(masked[:, :4, 0].min()) == 1
    assert float(masked[:, :4, 1:].abs().max()) == 0
    torch.testing.assert_close(masked[:, 4:, :1], dct.encode(image + 0.1))
    with pytest.raises(ValueError, match="20"):
        first_frame_condition(dct, image, 9, 7)


def test_a_last_frame_beside_the_first():
    """Mask channel k of a latent frame stands for its k-th frame: the last one is the fourth of its group."""
    dct = BlockDCT()
    g = torch.Generator().manual_seed(0)
    first, last = (torch.rand(1, 3, 1, 16, 24, generator=g) * 2 - 1 for _ in range(2))
    y: Any = first_frame_condition(dct, first, 9, 20, last=last)
    assert y.shape == (1, 20, 3, 2, 3)
    per_frame = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1.0])  # the first frame four times, then the other eight
    torch.testing.assert_close(y[0, :4, :, 0, 0].T.flatten(), per_frame)
    assert torch.equal(y[:, :4], y[:, :4, :, :1, :1].expand(1, 4, 3, 2, 3))
    clip = torch.cat([first, torch.zeros(1, 3, 7, 16, 24), last], dim=2)
    torch.testing.assert_close(y[:, 4:], dct.encode(clip))
    for channels, frames in ((16, 9), (0, 9), (20, 1)):
        with pytest.raises(ValueError, match="last frame"):
            first_frame_condition(dct, first, frames, channels, last=last)


def test_a_last_image_for_models_that_take_one(config, make_world, image, path):
    masked = dataclasses.replace(config, video=dataclasses.replace(config.video, in_dim=36))
    text = HashTextEncoder(text_len=7, text_dim=12)
    pipe = WorldPipeline(make_world(masked), BlockDCT(), text, sampling=SAMPLING)
    free, held = (
        _run(pipe, image, "x", path, num_inference_steps=1, guidance_scale=1.0, last_image=end)
        for end in (None, image.rotate(180))
    )
    assert (free.settings["last_image"], held.settings["last_image"]) == (False, True)
    assert not np.array_equal(free.video, held.video)


def test_reused_steps_are_reported(pipe, image, path):
    world = _run(pipe, image, "x", path, num_inference_steps=8, guidance_scale=1.0, easycache=5.0)
    assert world.settings["easycache"] == 5.0
    assert world.settings["reused_steps"] == 5  # two to begin with and the last one are computed
