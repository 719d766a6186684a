"""The whole backend: with a predictor that gives exact point maps it recovers the truth; wrong input is refused."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from fw_data.annotators.base import AnnotationRefused, GeometryBackend
from fw_data.annotators.depth.depth_anything import Resolution
from fw_data.annotators.dust3r.alignment import AlignmentConfig
from fw_data.annotators.dust3r.backend import Dust3rBackend, Dust3rBackendConfig, image_placement
from fw_data.annotators.dust3r.network import Dust3rConfig, Dust3rNetwork
from fw_data.annotators.dust3r.predictor import NetworkPredictor, PairPointmaps
from fw_data.annotators.dust3r.scene import WindowMaps
from fw_geometry.align import fit_scale
from fw_geometry.metrics import ate, rpe

HEIGHT, WIDTH, LONG_SIDE, FOCAL_PX = 72, 128, 64, 110.0  # frames; images are 64x32, cut from 64x36


class ExactScene:
    """A room with a bump seen by a moving camera: exact point maps of any pair, at the size of the images."""

    name = "exact"

    def __init__(self, frames: int, *, wrong: frozenset[int] = frozenset(), noise: float = 0.0) -> None:
        rng = np.random.default_rng(7)
        self.wrong, self.noise = wrong, noise
        self.pose = np.repeat(np.eye(4)[None], frames, 0)
        self.pose[:, :3, :3] = Rotation.from_rotvec(np.cumsum(rng.normal(0, 0.01, (frames, 3)), 0)).as_matrix()
        self.pose[:, :3, 3] = np.cumsum(rng.normal(0, 0.03, (frames, 3)), 0) + np.outer(
            np.arange(frames), (0.02, 0, 0.01)
        )

    def depth(self, frame: int, K: np.ndarray, height: int, width: int) -> np.ndarray:
        """z-depth of a wavy floor-and-wall: solved for by iteration on the height of the surface."""
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = np.stack([(columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1], np.ones_like(columns)], -1)
        world, center = rays @ self.pose[frame, :3, :3].T, self.pose[frame, :3, 3]
        z = np.full((height, width), 4.0)
        for _ in range(60):
            points = center + world * z[..., None]
            surface = 4 + 0.4 * np.sin(1.3 * points[..., 0]) + 0.3 * points[..., 1]
            z = z + 0.7 * (surface - points[..., 2])
        return z

    def predict(
        self, images: np.ndarray, pairs: Sequence[tuple[int, int]], on_done: Callable[[float], None]
    ) -> Iterator[PairPointmaps]:
        frames, height, width, _ = images.shape
        start = int(images[0, 0, 0, 0])  # the image says which frame of the clip it is
        placement = image_placement(HEIGHT, WIDTH, LONG_SIDE)
        focal = FOCAL_PX * placement.resized_width / WIDTH
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
        columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        rays = np.stack([(columns - width / 2) / focal, (rows - height / 2) / focal, np.ones_like(columns)], -1)
        points = [rays * self.depth(start + f, K, height, width)[..., None] for f in range(frames)]
        for number, (i, j) in enumerate(pairs):
            rng = np.random.default_rng([i + start, j + start])
            move = np.linalg.inv(self.pose[start + i]) @ self.pose[start + j]
            if number in self.wrong:
                move[:3] = Rotation.from_rotvec(rng.normal(0, 0.5, 3)).as_matrix() @ move[:3]
            scale = np.exp(rng.normal(0, 0.3))
            here, there = (
                p * np.exp(self.noise * rng.normal(size=p.shape[:2]))[..., None] for p in (points[i], points[j])
            )
            sides = (scale * here, scale * (there @ move[:3, :3].T + move[:3, 3]))
            confidence = np.full((height, width), 8.0, np.float32)
            yield PairPointmaps(
                first=i,
                second=j,
                first_points=sides[0].astype(np.float32),
                second_points=sides[1].astype(np.float32),
                first_confidence=confidence,
                second_confidence=confidence,
            )
            on_done((number + 1) / len(pairs))


def frames_of(scene: ExactScene) -> np.ndarray:
    """Frames whose first number is the index of the frame."""
    count = len(scene.pose)
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, HEIGHT, WIDTH, 3)).copy()


class ExactDisparity:
    """A depth network that knows the truth up to a scale and a shift per frame."""

    def __init__(self, scene: ExactScene, *, metric: bool = False) -> None:
        self.scene, self.metric = scene, metric

    def disparity(self, frames: np.ndarray, *, resolution: Resolution, on_done: Callable[[float], None]) -> np.ndarray:
        assert resolution == "native"
        K = np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
        depth = np.stack([self.scene.depth(int(f[0, 0, 0]), K, HEIGHT, WIDTH) for f in frames])
        on_done(1.0)
        if self.metric:
            return (1 / depth).astype(np.float32)
        wave = np.sin(np.arange(len(frames)) / 3)[:, None, None]
        return ((1 / depth - 0.02 * (1 + 0.1 * wave)) * (30 + wave)).astype(np.float32)


def check_truth(scene: ExactScene, backend: GeometryBackend, *, whole: bool, tolerance: float = 1e-5) -> None:
    geometry = backend.annotate(frames_of(scene))
    path = np.linalg.norm(np.diff(scene.pose[:, :3, 3], axis=0), axis=1).sum()
    assert ate(geometry.pose_c2w, scene.pose).rmse < tolerance * path
    assert rpe(geometry.pose_c2w, scene.pose).rot_deg < 20 * tolerance
    K = np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
    np.testing.assert_allclose(geometry.K, np.repeat(K[None], len(scene.pose), 0), rtol=10 * tolerance)
    truth = np.stack([scene.depth(f, K, HEIGHT, WIDTH) for f in range(len(scene.pose))])
    known = geometry.depth_m > 0
    assert known.mean() == (1.0 if whole else pytest.approx(64 / 72, abs=0.02))
    scale = fit_scale(geometry.depth_m[known].astype(np.float64), truth[known])
    error = np.abs(scale * geometry.depth_m[known] / truth[known] - 1)
    assert np.median(error) < 0.01  # images have half the frames' resolution
    assert (geometry.confidence[known] > 0.3).mean() > 0.9
    assert (geometry.pose_confidence > 0.9).all()


def config(**changes: Any) -> Dust3rBackendConfig:
    settings: dict[str, Any] = {"long_side": LONG_SIDE, "graph": "logwin", "reach": 3, "window": 40, "overlap": 6}
    return Dust3rBackendConfig(**(settings | changes))


def test_exact_point_maps_give_the_exact_clip() -> None:
    scene = ExactScene(9)
    stages: list[tuple[str, float]] = []
    backend = Dust3rBackend(scene, config())
    assert isinstance(backend, GeometryBackend)
    check_truth(scene, backend, whole=False)
    backend.annotate(frames_of(scene), progress=lambda stage, part: stages.append((stage, part)))
    parts = [part for _, part in stages]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_long_clips_are_joined_from_windows() -> None:
    scene = ExactScene(26)
    check_truth(scene, Dust3rBackend(scene, config(window=12, overlap=4)), whole=False, tolerance=1e-4)


def test_a_depth_network_gives_every_pixel() -> None:
    scene = ExactScene(7)
    backend = Dust3rBackend(scene, config(), ExactDisparity(scene))
    check_truth(scene, backend, whole=True)
    assert backend.annotate(frames_of(scene)).scores["disparity_residual"] < 0.01


def test_a_metric_depth_network_gives_the_size_of_the_scene() -> None:
    scene = ExactScene(7)
    geometry = Dust3rBackend(scene, config(), ExactDisparity(scene, metric=True)).annotate(frames_of(scene))
    assert geometry.units == "metric"
    found = ate(geometry.pose_c2w, scene.pose)
    assert found.alignment.scale == pytest.approx(1, rel=0.005)
    K = np.array([[FOCAL_PX, 0, WIDTH / 2], [0, FOCAL_PX, HEIGHT / 2], [0, 0, 1]])
    assert np.median(np.abs(geometry.depth_m[3] / scene.depth(3, K, HEIGHT, WIDTH) - 1)) < 0.005
    assert Dust3rBackend(scene, config()).annotate(frames_of(scene)).units == "scene"


def test_wrong_pairs_are_left_out_and_counted() -> None:
    scene = ExactScene(9, wrong=frozenset({3, 10, 11, 20}), noise=0.01)
    geometry = Dust3rBackend(scene, config()).annotate(frames_of(scene))
    assert ate(geometry.pose_c2w, scene.pose).rmse < 1e-3
    assert geometry.scores["pairs_accepted"] == pytest.approx(1 - 4 / 40)
    assert geometry.pose_confidence.min() < 0.9


def test_scenes_that_do_not_agree_are_refused() -> None:
    scene = ExactScene(6, wrong=frozenset(range(100)))
    with pytest.raises(AnnotationRefused, match="do not agree on one scene") as refused:
        Dust3rBackend(scene, config()).annotate(frames_of(scene))
    assert refused.value.code == "pairs-disagree"
    with pytest.raises(AnnotationRefused, match="one frame"):
        Dust3rBackend(scene, config()).annotate(frames_of(scene)[:1])


class Blank:
    """A predictor of one fixed point map, with trouble on request."""

    name = "blank"

    def __init__(self, points: float, confidence: float) -> None:
        self.points, self.confidence = points, confidence

    def predict(
        self, images: np.ndarray, pairs: Sequence[tuple[int, int]], on_done: Callable[[float], None]
    ) -> Iterator[PairPointmaps]:
        size = images.shape[1:3]
        cloud, trust = np.full((*size, 3), self.points, np.float32), np.full(size, self.confidence, np.float32)
        for i, j in pairs:
            yield PairPointmaps(
                first=i,
                second=j,
                first_points=cloud,
                second_points=cloud,
                first_confidence=trust,
                second_confidence=trust,
            )
        on_done(1.0)


@pytest.mark.parametrize(
    ("points", "confidence"), [(1.0, 3.0), (0.0, 3.0), (-2.0, 3.0), (np.nan, 3.0), (np.inf, np.inf), (1.0, 1.0)]
)
def test_maps_that_say_nothing_are_refused(points: float, confidence: float) -> None:
    frames = np.zeros((4, HEIGHT, WIDTH, 3), np.uint8)
    with pytest.raises(AnnotationRefused, match=r"pair|scene"):
        Dust3rBackend(Blank(points, confidence), config()).annotate(frames)


def test_the_network_runs_behind_the_backend() -> None:
    torch.manual_seed(0)
    sizes = Dust3rConfig(
        encoder_dim=16,
        encoder_depth=1,
        encoder_heads=2,
        decoder_dim=16,
        decoder_depth=4,
        decoder_heads=2,
        head="linear",
    )
    predictor = NetworkPredictor(Dust3rNetwork(sizes).eval())
    frames = np.random.default_rng(0).integers(0, 256, (3, 36, 64, 3), dtype=np.uint8)
    done: list[float] = []
    maps = list(predictor.predict(frames[:, :32], [(0, 1), (1, 0), (1, 2)], done.append))
    assert [(m.first, m.second) for m in maps] == [(0, 1), (1, 0), (1, 2)]
    assert done == [2 / 3, 1.0]
    with torch.no_grad():
        image = torch.from_numpy(frames[:, :32]).movedim(-1, 1).float() / 127.5 - 1
        alone = predictor.network(image[1:2], image[2:3])
    np.testing.assert_allclose(maps[2].second_points, alone.points2[0].numpy(), rtol=1e-4, atol=1e-5)
    with pytest.raises(AnnotationRefused, match="do not agree"):  # random weights see no scene
        Dust3rBackend(predictor, config(alignment=AlignmentConfig(iterations=2))).annotate(frames)


def test_images_and_windows_keep_order() -> None:
    placement = image_placement(336, 592, 512)
    assert (placement.height, placement.width) == (288, 512)
    assert image_placement(600, 400, 512).height == 512
    maps = WindowMaps(2, 32, 64, [(0, 1), (1, 0)], 100)
    assert 50 <= len(maps.chosen) <= 100
    scene = ExactScene(2)
    wrong = next(scene.predict(np.zeros((2, 32, 64, 3), np.uint8), [(1, 0)], lambda _part: None))
    with pytest.raises(ValueError, match=r"\(1, 0\)"):
        maps.add(wrong)
    with pytest.raises(ValueError, match="overlap"):
        Dust3rBackendConfig(window=5, overlap=5)
