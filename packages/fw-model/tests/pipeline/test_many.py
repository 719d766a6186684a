"""Several worlds per call: alone they are the same bit by bit, in one pass up to rounding."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fw_geometry import make_trajectory
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import tiny
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.job import GenerationJob
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_model.pipeline.settings import GenerationSettings, Sampling

FRAMES, HEIGHT, WIDTH = 5, 32, 48
PROMPTS = ["a red room", "a blue hall", "a garden"]


@pytest.fixture(scope="module")
def pipe() -> WorldPipeline:
    """All weights are moved off zero, so that every input changes the result."""
    world = FantasyWorld(tiny(), seed=0)
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in world.parameters():
            spread = 0.2 if parameter.ndim < 2 else 0.5 * parameter[0].numel() ** -0.5
            parameter.add_(torch.randn(parameter.shape, generator=g) * spread)
    sampling = Sampling(num_frames=FRAMES, height=HEIGHT, width=WIDTH, num_inference_steps=3, guidance_scale=2.0)
    return WorldPipeline(world, BlockDCT(), HashTextEncoder(text_len=16, text_dim=64), sampling=sampling)


def image(seed: int) -> Any:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def path(name: str = "dolly") -> Any:
    return make_trajectory(name, FRAMES, width=WIDTH, height=HEIGHT)


def jobs(pipe: WorldPipeline) -> list[GenerationJob]:
    ways = ("dolly", "pan", "orbit")
    return [
        pipe.prepare(image(k), PROMPTS[k], path(ways[k]), seed=k, scene_scale=1.0 + k, negative_prompt=f"blur {k}")
        for k in range(3)
    ]


def worlds_of(pipe: WorldPipeline, samples_per_pass: int) -> list[World]:
    made = {}
    for report in pipe.generate_many(jobs(pipe), samples_per_pass=samples_per_pass):
        if report.world is not None:
            made[report.samples] = report.world
    return [made[(k,)] for k in range(3)]


def arrays(world: World) -> dict[str, np.ndarray]:
    return {name: getattr(world, name) for name in ("video", "depth", "depth_confidence", "points")} | {
        "pose": world.trajectory.pose_c2w
    }


@pytest.fixture(scope="module")
def alone(pipe: WorldPipeline) -> list[World]:
    ways = ("dolly", "pan", "orbit")
    return [
        pipe(image(k), PROMPTS[k], path(ways[k]), seed=k, scene_scale=1.0 + k, negative_prompt=f"blur {k}")
        for k in range(3)
    ]


def test_one_sample_per_pass_is_the_same_bit_by_bit(pipe: WorldPipeline, alone: list[World]) -> None:
    for one, other in zip(worlds_of(pipe, 1), alone, strict=True):
        for (name, made), expected in zip(arrays(one).items(), arrays(other).values(), strict=True):
            np.testing.assert_array_equal(made, expected, err_msg=name)
        assert one.settings == other.settings


@pytest.mark.parametrize("samples_per_pass", [2, 3])
def test_samples_of_one_pass_differ_by_rounding_only(
    pipe: WorldPipeline, alone: list[World], samples_per_pass: int
) -> None:
    for one, other in zip(worlds_of(pipe, samples_per_pass), alone, strict=True):
        assert np.abs(one.video.astype(int) - other.video).max() <= 1
        np.testing.assert_allclose(one.depth, other.depth, rtol=1e-4)
        np.testing.assert_allclose(one.points, other.points, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(one.trajectory.pose_c2w, other.trajectory.pose_c2w, atol=1e-4)
        np.testing.assert_array_equal(one.requested.pose_c2w, other.requested.pose_c2w)
        assert one.settings == other.settings
    first, second = (world.video.astype(int) for world in alone[:2])
    assert np.abs(first - second).mean() > 5, "the samples must differ for this test to mean anything"


def test_lists_give_a_list(pipe: WorldPipeline) -> None:
    one = GenerationSettings(seed=1)
    made = pipe([image(0), image(1)], ["a", "b"], path(), [one, GenerationSettings(seed=2)], samples_per_pass=2)
    assert [world.settings["seed"] for world in made] == [1, 2]
    assert [world.settings["prompt"] for world in made] == ["a", "b"]
    expected = pipe(image(1), "b", path(), seed=2)
    assert np.abs(made[1].video.astype(int) - expected.video).max() <= 1
    with pytest.raises(ValueError, match="prompt is a list of 1 for 2 images"):
        pipe([image(0), image(1)], ["a"], path())


def batches(pipe: WorldPipeline, monkeypatch: pytest.MonkeyPatch, made: list[GenerationJob], most: int) -> list[int]:
    """Number of samples of every call of the transformer, once per pass."""
    forward, sizes = FantasyWorld.forward, []

    def counted(self: FantasyWorld, latents: Any, *args: Any, **kwargs: Any) -> Any:
        sizes.append(len(latents))
        return forward(self, latents, *args, **kwargs)

    monkeypatch.setattr(FantasyWorld, "forward", counted)
    list(pipe.generate_many(iter(made), samples_per_pass=most))
    return sizes


def test_what_cannot_share_a_pass_does_not(pipe: WorldPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guidance off, one step: one call per pass."""
    plain = {"num_inference_steps": 1, "guidance_scale": 1.0}
    changes = [{}, {"shift": 2.0}, {}, {"easycache": 0.1}, {"cross_branch": False}, {"seed": 4}, {"width": 64}]
    made = [pipe.prepare(image(0), "", path(), **{**plain, **change}) for change in changes]
    assert sorted(batches(pipe, monkeypatch, made, 2)) == [1, 1, 1, 1, 1, 2]
    assert sorted(batches(pipe, monkeypatch, made, 3)) == [1, 1, 1, 1, 3]


def test_reports_count_the_worlds(pipe: WorldPipeline) -> None:
    reports = list(pipe.generate_many(iter(jobs(pipe)), samples_per_pass=2))
    stages = [(key, [r.step for r in group]) for key, group in itertools.groupby(reports, lambda r: r.stage)]
    assert stages == [
        ("encode", [0, 1, 2]), ("denoise", [1, 2, 3]), ("decode", [0, 1, 2]),
        ("encode", [0, 1]), ("denoise", [1, 2, 3]), ("decode", [0, 1]),
    ]  # fmt: skip
    assert [report.samples for report in reports if report.world is not None] == [(0,), (1,), (2,)]
    assert {report.samples for report in reports if report.stage == "denoise"} == {(0, 1), (2,)}
    with pytest.raises(ValueError, match="samples_per_pass is 0"):
        pipe.generate_many([], samples_per_pass=0)
