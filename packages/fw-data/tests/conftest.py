"""A tiny raw folder made in memory: a slanted textured plane seen by a moving camera, with exact depth and poses."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from fw_data.annotate.config import AnnotateConfig
from fw_data.annotate.pipeline import annotate
from fw_data.annotate.progress import PlainReporter
from fw_data.annotate.summary import RunSummary
from fw_data.annotators.oracle.spec import OracleSpec
from fw_data.engine.local import LocalEngine

HEIGHT, WIDTH = 48, 64


def plane_scene(frames: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> dict[str, np.ndarray]:
    """video (f, h, w, 3), depth_m (f, h, w), K and pose_c2w of a camera that moves along a slanted plane."""
    rng = np.random.default_rng(seed)
    texture = cv2.resize(rng.integers(0, 256, (12, 24, 3), dtype=np.uint8), (1536, 768), interpolation=cv2.INTER_CUBIC)
    K = np.array([[0.9 * width, 0, width / 2], [0, 0.9 * width, height / 2], [0, 0, 1]])
    normal, distance = np.array([0.3, 0.2, -1.0]), -4.0  # points with normal . X = distance
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([columns, rows, np.ones_like(columns)], -1) @ np.linalg.inv(K).T
    video, depths, poses = [], [], []
    for index in range(frames):
        angle = 0.01 * index
        pose = np.eye(4)
        pose[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
        pose[:3, 3] = [0.05 * index, 0.01 * index, 0.02 * index]
        world_rays = rays @ pose[:3, :3].T
        depth = (distance - normal @ pose[:3, 3]) / (world_rays @ normal)
        points = pose[:3, 3] + world_rays * depth[..., None]
        at = ((points[..., :2] + (6, 3)) * 128).astype(np.float32)
        video.append(cv2.remap(texture, at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))
        depths.append(depth)
        poses.append(pose)
    return {
        "video": np.stack(video),
        "depth_m": np.stack(depths).astype(np.float32),
        "K": np.repeat(K[None], frames, 0),
        "pose_c2w": np.stack(poses),
    }


def write_video(
    path: Path,
    frames: np.ndarray,
    *,
    fps: int = 24,
    pts: list[int] | None = None,
    rotation: int = 0,
    faststart: bool = False,
    pix_fmt: str = "yuv444p",
    aspect: Fraction | None = None,
) -> Path:
    """Encode RGB frames; `pts` are ticks of 1 / fps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "+faststart"} if faststart else {}
    with av.open(path, "w", options=options) as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "8", "preset": "ultrafast", "g": "12"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], pix_fmt
        stream.codec_context.time_base = Fraction(1, fps)
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for index, frame in enumerate(frames):
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            image.pts = index if pts is None else pts[index]
            image.time_base = Fraction(1, fps)
            container.mux(stream.encode(image))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def scene() -> Callable[..., dict[str, np.ndarray]]:
    return plane_scene


@pytest.fixture
def make_video() -> Callable[..., Path]:
    return write_video


def make_raw_with_truth(root: Path) -> None:
    """root/raw and root/truth: two videos, one of them in a subfolder, one with a caption."""
    for number, name in enumerate(("a", "sub/b")):
        content = plane_scene(13, seed=number)
        write_video(root / "raw" / f"{name}.mp4", content["video"])
        truth = root / "truth" / f"{name}.npz"
        truth.parent.mkdir(parents=True, exist_ok=True)
        np.savez(truth, depth_m=content["depth_m"], K=content["K"], pose_c2w=content["pose_c2w"])
    (root / "raw" / "a.txt").write_text("a slanted\nplane")


@pytest.fixture
def raw_with_truth(tmp_path: Path) -> tuple[Path, Path]:
    """(raw, truth), freshly made."""
    make_raw_with_truth(tmp_path)
    return tmp_path / "raw", tmp_path / "truth"


@pytest.fixture
def run_annotate() -> Callable[..., RunSummary]:
    """`annotate` in this process, with the oracle of a truth folder unless a spec is given."""

    def run(raw: Path, out: Path, truth: Path | None = None, **options) -> RunSummary:
        spec = options.pop("spec", None) or OracleSpec(truth=truth or raw.parent / "truth")
        config = AnnotateConfig(**options.pop("config", {}))
        engine = options.pop("engine", None) or LocalEngine(workers=0)
        return annotate(raw, out, config=config, spec=spec, engine=engine, reporter=PlainReporter(), **options)

    return run


@pytest.fixture(scope="session")
def shared_dataset(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(dataset, truth) of two videos, one with a caption; tests copy it before they change it."""
    root = tmp_path_factory.mktemp("shared")
    make_raw_with_truth(root)
    engine = LocalEngine(workers=0)
    spec = OracleSpec(truth=root / "truth")
    config = AnnotateConfig(max_frames=13)
    annotate(root / "raw", root / "out", config=config, spec=spec, engine=engine, reporter=PlainReporter())
    return root / "out", root / "truth"
