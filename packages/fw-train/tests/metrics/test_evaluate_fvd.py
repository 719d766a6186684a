"""FVD: the distance against closed forms, the network as a TorchScript file, and its place in an evaluation."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fw_data.dataset.reader import ClipDataset
from fw_model.pipeline.result import World
from fw_train.config.schema import ConfigError
from fw_train.evaluate.evaluation import SetDistance, read_evaluation
from fw_train.evaluate.options import ComparisonOptions, EvaluateOptions
from fw_train.evaluate.run import compare_runs, evaluate
from fw_train.metrics.frechet import VideoFeatures, frechet_distance
from fw_train.metrics.truth import load_truth


@pytest.fixture(autouse=True, scope="module")
def few_points() -> Iterator[None]:
    """Replace the nearest-point search, which is slow for large clouds and not tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fw_train.metrics.measure._MOST_POINTS", 300)
        yield


class Network(nn.Module):
    """Means and spreads of the colors and of their change: called as the published file is."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        if not (rescale and resize and return_features):
            raise ValueError("called otherwise")
        x = x / 255.0
        change = x[:, :, 1:] - x[:, :, :-1]
        return torch.cat([x.mean(dim=[2, 3, 4]), x.std(dim=[2, 3, 4]), change.abs().mean(dim=[2, 3, 4])], 1)


class Rows(nn.Module):
    """Gives a row for each color, not one for the video."""

    def forward(self, x: Tensor, rescale: bool = True, resize: bool = True, return_features: bool = True) -> Tensor:
        return x.mean(dim=[3, 4])[0] if rescale and resize and return_features else x


class Plain(nn.Module):
    """Has none of the options."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=[2, 3, 4])


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TorchScript files of these networks, and one that is none."""
    folder = tmp_path_factory.mktemp("programs")
    for module in (Network(), Rows(), Plain()):
        with pytest.warns(DeprecationWarning, match="torch.jit.script"):
            torch.jit.script(module).save(str(folder / f"{type(module).__name__}.pt"))
    (folder / "text.pt").write_text("no program")
    return folder


def samples_with(mean: np.ndarray, covariance: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Vectors whose mean and covariance are these to rounding, not only on average."""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    whitened = x @ np.linalg.inv(np.linalg.cholesky(np.cov(x.T))).T
    return whitened @ np.linalg.cholesky(covariance).T + mean


def covariance(size: int, seed: int) -> np.ndarray:
    a = np.random.default_rng(seed).normal(size=(size, size))
    return a @ a.T + 0.1 * np.eye(size)


@pytest.mark.parametrize(("n", "m"), [(40, 60), (7, 300)])
def test_the_distance_of_normal_distributions_is_the_closed_form(n: int, m: int):
    """The covariances do not commute, so the root of their product is none of their own roots."""
    mean, other = np.arange(6.0), np.full(6, 2.0)
    first, second = covariance(6, 1), covariance(6, 2)
    values, vectors = np.linalg.eigh(first)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root)).sum()
    wanted = ((mean - other) ** 2).sum() + np.trace(first) + np.trace(second) - 2 * shared
    found = frechet_distance(samples_with(mean, first, n, 3), samples_with(other, second, m, 4))
    assert found == pytest.approx(wanted, rel=1e-10)


def test_independent_features_add_up():
    """Diagonal covariances: the squared difference of means and of standard deviations."""
    first = samples_with(np.array([0.0, 1.0]), np.diag([4.0, 9.0]), 50, 0)
    second = samples_with(np.array([3.0, 1.0]), np.diag([1.0, 25.0]), 50, 1)
    assert frechet_distance(first, second) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 5) ** 2, rel=1e-10)


def test_fewer_videos_than_features():
    """Covariances without full rank: two points along different axes."""
    first = np.array([[1.0, 0, 0, 0], [-1, 0, 0, 0]])
    second = np.array([[0, 1.0, 0, 0], [0, -1, 0, 0]])
    assert frechet_distance(first, second) == pytest.approx(2 + 2)
    assert frechet_distance(first, 3 * first) == pytest.approx(2 * (3 - 1) ** 2)


@pytest.mark.parametrize("shape", [(30, 5), (5, 30)])
def test_equal_sets_have_no_distance(shape: tuple[int, int]):
    x = np.random.default_rng(0).normal(size=shape)
    assert frechet_distance(x, x[::-1]) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * shape[1], rel=1e-12)


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        (np.zeros((1, 3)), np.zeros((4, 3)), "two"),
        (np.full((4, 3), np.nan), np.zeros((4, 3)), "not finite"),
    ],
)
def test_sets_that_have_no_distance(first: np.ndarray, other: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        frechet_distance(first, other)


def test_the_network_sees_colors_of_0_to_255(programs: Path):
    video = np.zeros((5, 8, 12, 3), np.uint8)
    video[..., 1] = 255
    video[2:, ..., 2] = 51
    found = VideoFeatures(programs / "Network.pt")(video)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found[:3], [0, 1, 0.2 * 3 / 5], atol=1e-6)
    np.testing.assert_allclose(found[6:], [0, 0, 0.2 / 4], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.pt", "none.pt"),
        ("text.pt", "TorchScript"),
        ("Rows.pt", r"it gives \(3, 5\), not one row of features"),
        ("Plain.pt", "5 frames of 32x48"),
    ],
)
def test_other_files_are_refused_before_anything_is_generated(
    checkpoint: Path, dataset: Path, tmp_path: Path, programs: Path, name: str, message: str
):
    options = EvaluateOptions(checkpoint=checkpoint, data=dataset, out=tmp_path / "out", split="all", clips=2)
    with pytest.raises(ConfigError, match=message):
        evaluate(replace(options, fvd_network=programs / name), lambda _: None)
    assert not (tmp_path / "out").exists()


def brighter(world: World) -> World:
    return replace(world, video=np.minimum(world.video, 205) + np.uint8(50))


def test_fvd_is_one_number_of_an_evaluation(
    dataset: Path, tmp_path: Path, programs: Path, perfect_worlds, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "160")
    for name, change in (("perfect", lambda world: world), ("brighter", brighter)):
        worlds = perfect_worlds(dataset, tmp_path / f"worlds-{name}", 3, change)
        options = EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / name)
        evaluate(replace(options, fvd_network=programs / "Network.pt"), lambda _: None)
    perfect, brighter_ones = read_evaluation(tmp_path / "perfect"), read_evaluation(tmp_path / "brighter")
    assert perfect.fvd is not None
    assert brighter_ones.fvd is not None
    assert (perfect.fvd.clips, perfect.fvd.features) == (3, 9)
    assert perfect.fvd.value == pytest.approx(0, abs=1e-9)
    features = VideoFeatures(programs / "Network.pt")
    clips = ClipDataset(dataset)
    real = [
        load_truth(clips, clip.id, frames=5, height=32, width=48, min_confidence=0.3).video for clip in perfect.clips
    ]
    generated = [np.minimum(video, 205) + np.uint8(50) for video in real]
    wanted = frechet_distance(np.stack([features(v) for v in generated]), np.stack([features(v) for v in real]))
    assert brighter_ones.fvd.value == pytest.approx(wanted)
    assert wanted > 0.01
    printed = capsys.readouterr().out
    assert "FVD, all clips together" in printed
    assert "too few for a covariance of 9 features" in " ".join(printed.split())
    page = (tmp_path / "brighter" / "index.html").read_text()
    assert f"{wanted:.4g}" in page
    assert "3 clips, too few" in page
    compare_runs(ComparisonOptions(runs=(tmp_path / "perfect", tmp_path / "brighter"), out=tmp_path / "both"))
    both = json.loads((tmp_path / "both" / "comparison.json").read_text())
    assert [one["value"] for one in both["fvd"]] == [perfect.fvd.value, brighter_ones.fvd.value]
    assert f"brighter {wanted:.4g}" in (tmp_path / "both" / "comparison.html").read_text()


def test_one_clip_is_no_set(dataset: Path, tmp_path: Path, programs: Path, perfect_worlds):
    worlds = perfect_worlds(dataset, tmp_path / "worlds", 1)
    options = EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "out", fvd_network=programs / "Network.pt")
    with pytest.raises(ConfigError, match="clip"):
        evaluate(options, lambda _: None)
    assert not (tmp_path / "out").exists()


def test_enough_clips_need_no_caution():
    assert SetDistance(value=1, clips=401, features=400).caution == ""
    assert "400 clips" in SetDistance(value=1, clips=400, features=400).caution
