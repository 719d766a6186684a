"""VGGT, Depth Anything 3 and MapAnything behind stand-ins with the interface of their authors' packages.

Each stand-in checks what it is given and answers with the truth of a synthetic clip, in its own conventions.
"""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation

from fw_data.annotate.select_backend import select_backend
from fw_data.annotators.base import AnnotationRefused, ClipGeometry, GeometryBackend
from fw_data.annotators.checkpoints import WeightsMissing
from fw_data.annotators.multiview.spec import MultiViewSpec, _load
from fw_data.cli import main
from fw_data.options import AnnotateOptions

FRAMES, HEIGHT, WIDTH = 4, 90, 160
SIZES = {"vggt": (518, 294), "depth-anything-3": (504, 280), "map-anything": (518, 294)}
"""Width and height of the network's images."""
TRUSTED = 4.0
"""1 + exp(x) in the network's words, and so a confidence of 0.75."""
HUB = {
    "vggt": "facebook/VGGT-1B",
    "depth-anything-3": "depth-anything/DA3-BASE",
    "map-anything": "facebook/map-anything-apache",
}


class Truth:
    """A clip, and how a network sees it: its images, K in their pixels, world axes that are not the first camera's."""

    def __init__(self, content: dict[str, np.ndarray], size: tuple[int, int]) -> None:
        self.content, self.size = content, size
        self.depth = np.stack([cv2.resize(d, size, interpolation=cv2.INTER_LINEAR) for d in content["depth_m"]])
        scale = np.array([[size[0] / WIDTH], [size[1] / HEIGHT], [1.0]])
        self.K = content["K"] * scale
        world = np.eye(4)
        world[:3, :3] = Rotation.from_rotvec([0.2, -0.4, 0.1]).as_matrix()
        world[:3, 3] = [1.0, -2.0, 0.5]
        self.pose_c2w = world @ content["pose_c2w"]
        self.pose_w2c = np.linalg.inv(self.pose_c2w)
        self.certainty = np.full(self.depth.shape, TRUSTED, np.float32)
        self.certainty[:, :20] = 1.0

    def check(self, images: torch.Tensor) -> None:
        """RGB in [0, 1], and the frames' own content."""
        assert tuple(images.shape) == (FRAMES, 3, self.size[1], self.size[0])
        seen = cv2.resize(images[1].permute(1, 2, 0).numpy(), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
        np.testing.assert_allclose(seen * 255, self.content["video"][1], atol=20)
        assert np.abs(seen * 255 - self.content["video"][1]).mean() < 2


class _Loaded(torch.nn.Module):
    truth: Truth

    @classmethod
    def from_pretrained(cls, folder: str) -> "_Loaded":
        assert (Path(folder) / "model.safetensors").is_file()
        return cls()


class Vggt(_Loaded):
    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.truth.check(images)
        truth, (width, height) = self.truth, self.truth.size
        turn = Rotation.from_matrix(truth.pose_w2c[:, :3, :3]).as_quat()
        fov = [2 * np.arctan(side / 2 / truth.K[:, i, i]) for side, i in ((height, 1), (width, 0))]
        encoded = np.concatenate([truth.pose_w2c[:, :3, 3], turn, np.stack(fov, axis=1)], axis=1)
        parts = {"pose_enc": encoded, "depth": truth.depth[..., None], "depth_conf": truth.certainty}
        return {name: torch.from_numpy(value).float()[None] for name, value in parts.items()}


class DepthAnything3(_Loaded):
    cameras = True

    def inference(self, image: list[np.ndarray], *, process_res: int, process_res_method: str) -> SimpleNamespace:
        assert (process_res, process_res_method) == (504, "upper_bound_resize")
        assert [(i.shape, i.dtype) for i in image] == [((HEIGHT, WIDTH, 3), np.uint8)] * FRAMES
        sky = np.zeros(self.truth.depth.shape, bool)
        sky[:, :, -40:] = True
        return SimpleNamespace(
            depth=self.truth.depth,
            conf=self.truth.certainty,
            sky=sky,
            is_metric=0,
            extrinsics=self.truth.pose_w2c[:, :3] if self.cameras else None,
            intrinsics=self.truth.K if self.cameras else None,
        )


class MapAnything(_Loaded):
    def infer(self, views: list[dict], **options: object) -> list[dict[str, torch.Tensor]]:
        assert options["apply_mask"] is True
        assert all(set(view) == {"img", "data_norm_type"} and view["data_norm_type"] == ["dinov2"] for view in views)
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        self.truth.check(torch.stack([view["img"][0] * std + mean for view in views]))
        found = []
        for frame in range(len(views)):
            mask = torch.ones(1, *self.truth.depth.shape[1:], 1, dtype=torch.bool)
            mask[:, -30:] = False
            found.append(
                {
                    "depth_z": torch.from_numpy(self.truth.depth[frame])[None, ..., None],
                    "conf": torch.from_numpy(self.truth.certainty[frame])[None],
                    "mask": mask,
                    "intrinsics": torch.from_numpy(self.truth.K[frame]).float()[None],
                    "camera_poses": torch.from_numpy(self.truth.pose_c2w[frame]).float()[None],
                }
            )
        return found


PACKAGES = {
    "vggt": ("vggt.models.vggt", "VGGT", Vggt),
    "depth-anything-3": ("depth_anything_3.api", "DepthAnything3", DepthAnything3),
    "map-anything": ("mapanything.models", "MapAnything", MapAnything),
}


@pytest.fixture(params=list(PACKAGES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def truth(name: str, scene, monkeypatch: pytest.MonkeyPatch) -> Truth:
    """The stand-in of a package on the path, and what it will answer."""
    path, attribute, network = PACKAGES[name]
    truth = Truth(scene(FRAMES, HEIGHT, WIDTH), SIZES[name])
    parts = path.split(".")
    for end in range(1, len(parts) + 1):
        module = ModuleType(".".join(parts[:end]))
        module.__spec__ = SimpleNamespace(name=module.__name__)  # pyright: ignore[reportAttributeAccessIssue]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    setattr(sys.modules[path], attribute, network)
    monkeypatch.setattr(network, "truth", truth, raising=False)
    _load.cache_clear()
    return truth


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({}))
    return tmp_path


def order(name: str, weights: Path | str | None) -> AnnotateOptions:
    return AnnotateOptions(
        raw=Path("raw"),
        out=Path("out"),
        geometry=name,
        network_weights=None if weights is None else str(weights),
        device="cpu",
    )


def annotate(name: str, weights: Path, frames: np.ndarray) -> ClipGeometry:
    spec = select_backend(order(name, weights)).spec
    assert isinstance(spec, MultiViewSpec)
    backend = _load(spec)
    assert isinstance(backend, GeometryBackend)
    assert (backend.name, backend.version) == (spec.name, spec.version) == (name, "2")
    found = backend.annotate(frames)
    assert set(found.scores) == set(spec.score_meanings())
    return found


def test_the_clip_is_that_of_the_network_in_our_conventions(name: str, truth: Truth, weights: Path) -> None:
    content = truth.content
    found = annotate(name, weights, content["video"])
    np.testing.assert_allclose(found.pose_c2w, content["pose_c2w"], atol=1e-5)
    np.testing.assert_allclose(found.K, content["K"], rtol=1e-5)
    assert found.units == ("metric" if name == "map-anything" else "scene")
    known = found.depth_m > 0
    np.testing.assert_allclose(found.depth_m[known], content["depth_m"][known], rtol=0.01)
    inside = np.s_[:, 12:-12, 12:-16]  # without the unsure rows, the sky and the mask
    assert known[inside].all()
    assert found.confidence[inside] == pytest.approx(1 - 1 / TRUSTED)
    assert found.confidence[:, :3].max() == 0
    left_out = {"vggt": np.s_[:0], "depth-anything-3": np.s_[:, :, -10:], "map-anything": np.s_[:, -7:]}[name]
    assert found.depth_m[left_out].max(initial=0) == 0
    assert found.scores["focal_spread"] < 1e-5
    assert found.scores["network_trust"] == pytest.approx(1 - 1 / TRUSTED)


def test_turns_that_are_no_rotations_are_made_so(name: str, truth: Truth, weights: Path) -> None:
    if name == "vggt":
        pytest.skip("its quaternions always are rotations")
    truth.pose_c2w[2, :3, :3] *= 1.01
    truth.pose_w2c[2, :3, :3] *= 1.01
    turn = annotate(name, weights, truth.content["video"]).pose_c2w[:, :3, :3]
    np.testing.assert_allclose(turn @ turn.transpose(0, 2, 1), np.tile(np.eye(3), (FRAMES, 1, 1)), atol=1e-9)
    np.testing.assert_allclose(turn, truth.content["pose_c2w"][:, :3, :3], atol=1e-5)


@pytest.mark.parametrize("broken", ["K", "certainty"])
def test_a_network_that_knows_nothing_is_a_refusal(name: str, truth: Truth, weights: Path, broken: str) -> None:
    setattr(truth, broken, getattr(truth, broken) * np.nan)
    with pytest.raises(AnnotationRefused) as refusal:
        annotate(name, weights, truth.content["video"])
    assert refusal.value.code == "no-confidence"


def test_unknown_depth_is_zero_and_the_rest_stays(name: str, truth: Truth, weights: Path) -> None:
    truth.depth[1, 100:150, 100:150] = np.nan
    found = annotate(name, weights, truth.content["video"])
    hole = np.s_[1, 100 * HEIGHT // truth.size[1] + 2 : 145 * HEIGHT // truth.size[1], 35:45]
    assert found.depth_m[hole].max() == 0
    assert found.confidence[hole].max() == 0
    assert found.depth_m[0][hole[1:]].min() > 0


def test_the_license_is_named_and_the_fingerprint_follows_the_weights(name: str, truth: Truth, weights: Path) -> None:
    spec, messages = select_backend(order(name, weights))
    assert HUB[name] in messages[0]
    assert "license" in messages[0]
    before = spec.settings()
    save_file({"x": torch.ones(1)}, weights / "model.safetensors")
    assert spec.settings() != before


def test_missing_weights_say_where_they_are(name: str, truth: Truth, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"--network-weights.*{HUB[name]} \(.*\)"):
        select_backend(order(name, None))
    with pytest.raises(WeightsMissing, match="nowhere"):
        select_backend(order(name, "./nowhere"))
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMissing, match=r"config\.json"):
        select_backend(order(name, tmp_path))


def test_a_missing_package_says_how_to_install_it(name: str, weights: Path) -> None:
    with pytest.raises(ValueError, match=r"pip install '.*github\.com/"):
        select_backend(order(name, weights))


def test_monocular_weights_are_refused(scene, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fw_data.annotators.depth_anything_3.network import DepthAnything3Network

    network = DepthAnything3()
    monkeypatch.setattr(network, "cameras", False)
    monkeypatch.setattr(network, "truth", Truth(scene(FRAMES, HEIGHT, WIDTH), SIZES["depth-anything-3"]), raising=False)
    with pytest.raises(ValueError, match="DA3-BASE"):
        DepthAnything3Network(network).predict(np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8))


def test_the_command_names_the_license(truth: Truth, weights: Path, name: str, tmp_path, make_video, capsys) -> None:
    make_video(tmp_path / "raw" / "a.mp4", truth.content["video"])
    words = ["annotate", str(tmp_path / "raw"), str(tmp_path / "out"), "--geometry", name, "--workers", "0"]
    words += ["--network-weights", str(weights), "--device", "cpu", "--stop-after", "scan", "--min-frames", "3"]
    assert main(words) == 0
    assert "license of the weights" in capsys.readouterr().out
