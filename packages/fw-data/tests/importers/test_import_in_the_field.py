"""Scenes as people have them: distorted lenses, gaps in numbers, smaller copies, rigs, sparse poses, Windows files."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fw_data import ClipDataset
from fw_data.cli import main
from fw_geometry.camera import Trajectory
from fw_geometry.formats import write_colmap, write_realestate10k
from fw_geometry.lenses import Lens, pinhole_view
from fw_geometry.trajectories import make_trajectory

W, H = 96, 64
FLIP = np.diag([1.0, -1.0, -1.0, 1.0])


def bring_in(src: Path, out: Path, kind: str, *options: str, code: int = 0) -> ClipDataset:
    assert main(["import", str(src), str(out), "--format", kind, *options]) == code
    return ClipDataset(out)


def refused(out: Path) -> list[str]:
    return [json.loads(line)["reason"] for line in (out / "refusals.jsonl").read_text().splitlines()]


def write_images(folder: Path, names, size=(W, H)) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8)).save(folder / name)


def transforms(folder: Path, names, encoding="utf-8", **top) -> None:
    poses = make_trajectory("truck", len(names), width=W, height=H).pose_c2w @ FLIP
    frames = [{"file_path": name, "transform_matrix": pose.tolist()} for name, pose in zip(names, poses, strict=True)]
    data = {"w": W, "h": H, "fl_x": 80, "frames": frames} | top
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "transforms.json").write_text(json.dumps(data), encoding=encoding)


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth pattern on the plane z = 1."""
    wave = [np.sin(9 * x + 1), np.cos(8 * y), np.sin(6 * (x + y))]
    return np.stack([120 + 80 * value for value in wave], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize(
    "lens",
    [
        Lens(fx=70, fy=72, cx=50, cy=31, radial=(-0.2, 0.03), tangential=(0.002, -0.003)),
        Lens(kind="fisheye", fx=50, fy=50, cx=47, cy=33, radial=(0.03, -0.005)),
    ],
    ids=["opencv", "fisheye"],
)
@pytest.mark.parametrize("kind", ["nerfstudio", "colmap"])
def test_images_depth_and_intrinsics_are_undistorted_together(tmp_path, lens, kind):
    columns, rows = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    rays = lens.unproject(np.stack([columns, rows], axis=-1))
    on_plane = rays / rays[..., 2:]
    names = [f"images/{i}.png" for i in range(5)]
    write_images(tmp_path / "src", names)
    for name in names:
        Image.fromarray(texture(on_plane[..., 0], on_plane[..., 1])).save(tmp_path / "src" / name)
    depth = (1 + 0.2 * on_plane[..., 0]).astype(np.float32)  # z-depth that depends on the direction alone
    if kind == "nerfstudio":
        numbers = dict(zip(("k1", "k2"), lens.radial, strict=True))
        numbers |= {"p1": lens.tangential[0], "p2": lens.tangential[1]} if lens.kind == "perspective" else {}
        transforms(
            tmp_path / "src", names, fl_x=lens.fx, fl_y=lens.fy, cx=lens.cx, cy=lens.cy,
            camera_model="OPENCV" if lens.kind == "perspective" else "OPENCV_FISHEYE", **numbers,
        )  # fmt: skip
        scene = json.loads((tmp_path / "src/transforms.json").read_text())
        for row in scene["frames"]:
            row["depth_file_path"] = "depth.npy"
        np.save(tmp_path / "src/depth.npy", depth * 1000)
        (tmp_path / "src/transforms.json").write_text(json.dumps(scene))
    else:
        write_colmap(tmp_path / "src/sparse/0", make_trajectory("truck", 5, width=W, height=H),
                     names=[f"{i}.png" for i in range(5)], binary=False)  # fmt: skip
        params = [lens.fx, lens.fy, lens.cx, lens.cy, *lens.radial]
        params += [*lens.tangential] if lens.kind == "perspective" else [0, 0]
        model = "OPENCV" if lens.kind == "perspective" else "OPENCV_FISHEYE"
        text = " ".join(map(str, [1, model, W, H, *params]))
        (tmp_path / "src/sparse/0/cameras.txt").write_text(text + "\n")
    dataset = bring_in(tmp_path / "src", tmp_path / "out", kind)
    clip = dataset.load(0)
    K = pinhole_view(lens, W, H).K
    np.testing.assert_allclose(clip.K[0], K)
    x, y = (columns - K[0, 2]) / K[0, 0], (rows - K[1, 2]) / K[1, 1]
    error = np.abs(clip.video[2].astype(int) - texture(x, y))
    assert error.mean() < 4  # stored as video
    assert np.abs(clip.video[2].astype(int) - texture(on_plane[..., 0], on_plane[..., 1])).mean() > 2 * error.mean()
    assert any("degrees" in note and lens.kind in note for note in dataset.records[0].notes)
    if kind == "nerfstudio":
        inside = clip.depth_m[2] > 0
        assert inside.mean() > 0.98
        np.testing.assert_allclose(clip.depth_m[2][inside], (1 + 0.2 * x)[inside], atol=0.3 / 50)


def test_opencv_undistorts_the_same(tmp_path):
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 255, (H, W, 3), np.uint8), (0, 0), 3)
    from fw_data.importers.undistort import Undistortion

    lens = Lens(fx=70, fy=72, cx=50, cy=31, radial=(-0.2, 0.03), tangential=(0.002, -0.003))
    found = Undistortion([lens], W, H)
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    maps = cv2.initUndistortRectifyMap(
        lens.K - shift, np.array([-0.2, 0.03, 0.002, -0.003]), None, found.K[0] - shift, (W, H), cv2.CV_32FC1
    )
    expected = cv2.remap(image, *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(found.image(0, image), expected, atol=1)


def test_missing_frame_numbers_end_a_clip(tmp_path):
    names = [f"images/frame_{i:05d}.png" for i in (*range(1, 7), *range(90, 96))]
    write_images(tmp_path / "src", names)
    transforms(tmp_path / "src", names)
    found = bring_in(tmp_path / "src", tmp_path / "out", "nerfstudio")
    assert [(r.start_frame, r.num_frames, r.fps) for r in found.records] == [(0, 6, 24), (6, 6, 24)]
    assert "1 gaps in the frame numbers" in found.records[0].notes[0]
    step = 0.3 / 11  # of the path of 12 frames
    np.testing.assert_allclose(found.load(1).pose_c2w[:, 0, 3], np.arange(6) * step, atol=1e-9)
    write_colmap(tmp_path / "c/sparse", make_trajectory("truck", 12, width=W, height=H), names=[n[7:] for n in names])
    write_images(tmp_path / "c", names)
    assert [r.num_frames for r in bring_in(tmp_path / "c", tmp_path / "o", "colmap").records] == [6, 6]
    every_fifth = [f"images/{5 * i}.png" for i in range(6)]  # no gap
    write_images(tmp_path / "five", every_fifth)
    transforms(tmp_path / "five", every_fifth)
    (record,) = bring_in(tmp_path / "five", tmp_path / "f", "nerfstudio").records
    assert (record.num_frames, record.fps) == (6, 24)


def test_gaps_in_time_stamps_end_a_clip(tmp_path):
    stamps = np.array([0, 1, 2, 3, 4, 30, 31, 32, 33, 34]) * 40_000
    (tmp_path / "src").mkdir()
    cameras = make_trajectory("truck", 10, width=W, height=H)
    write_realestate10k(tmp_path / "src/a.txt", cameras, timestamps_us=stamps)
    write_images(tmp_path / "src", [f"a/{stamp}.png" for stamp in stamps])
    found = bring_in(tmp_path / "src", tmp_path / "out", "realestate10k")
    assert [(r.start_frame, r.num_frames, r.fps) for r in found.records] == [(0, 5, 25), (5, 5, 25)]


@pytest.mark.parametrize("kind", ["nerfstudio", "colmap"])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_smaller_copies_are_found(tmp_path, kind, suffix):
    write_images(tmp_path / "src", [f"images_2/{i}.{suffix}" for i in range(5)], size=(W // 2, H // 2))
    if kind == "nerfstudio":
        transforms(tmp_path / "src", [f"images/{i}.png" for i in range(5)])
    else:
        cameras = make_trajectory("truck", 5, width=W, height=H)
        write_colmap(tmp_path / "src/sparse/0", cameras, names=[f"{i}.png" for i in range(5)])
    clip = bring_in(tmp_path / "src", tmp_path / "out", kind).load(0)
    assert clip.video.shape[1:3] == (H // 2, W // 2)
    np.testing.assert_allclose(clip.K[0, :2, 2], (W / 4, H / 4))


def test_files_from_windows_and_absolute_paths(tmp_path):
    write_images(tmp_path / "src", [f"images/{i}.png" for i in range(5)])
    for number, pattern in enumerate((".\\images\\{}.png", "C:\\data\\scene\\images\\{}.png", "/mnt/disk/images/{}")):
        transforms(tmp_path / "src", [pattern.format(i) for i in range(5)], encoding="utf-8-sig")
        assert len(bring_in(tmp_path / "src", tmp_path / f"out{number}", "nerfstudio").load(0)) == 5


def test_vipes_layout_and_rigs(tmp_path):
    cameras = make_trajectory("truck", 5, width=W, height=H)
    names = [f"images/frame_{i:06d}.png" for i in range(5)]
    write_images(tmp_path / "vipe", names)
    write_colmap(tmp_path / "vipe", cameras, names=names, binary=False)
    np.testing.assert_allclose(
        bring_in(tmp_path / "vipe", tmp_path / "a", "colmap").load(0).pose_c2w, cameras.pose_c2w, atol=1e-9
    )
    both = Trajectory(
        pose_c2w=np.concatenate([cameras.pose_c2w, cameras.pose_c2w @ FLIP]),
        K=np.concatenate([cameras.K, cameras.K]), width=W, height=H,
    )  # fmt: skip
    names = [f"{side}/{i}.png" for side in ("left", "right") for i in range(5)]
    write_images(tmp_path / "rig/images", names)
    write_colmap(tmp_path / "rig/sparse/0", both, names=names)
    found = bring_in(tmp_path / "rig", tmp_path / "b", "colmap")
    assert [record.source for record in found.records] == ["sparse/0/left", "sparse/0/right"]
    for i in range(2):
        expected = both.pose_c2w[5 * i : 5 * i + 5]
        np.testing.assert_allclose(found.load(i).pose_c2w, np.linalg.inv(expected[0]) @ expected, atol=1e-9)


@pytest.mark.parametrize("offset_us", [0, 7_000_000], ids=["clock of the video", "clock of a longer video"])
def test_sparse_poses_of_a_dense_video(tmp_path, make_video, scene, offset_us):
    video = scene(40)["video"]
    make_video(tmp_path / "src/videos/a.mp4", video, fps=30)
    (tmp_path / "src/cameras").mkdir()
    stamps = np.round(np.arange(8) * 5 / 30 * 1e6).astype(np.int64) + offset_us
    height, width = video.shape[1:3]
    cameras = make_trajectory("truck", 8, width=width, height=height)
    write_realestate10k(tmp_path / "src/cameras/a.txt", cameras, timestamps_us=stamps)
    found = bring_in(tmp_path / "src", tmp_path / "out", "realestate10k")
    clip = found.load(0)
    assert clip.fps == pytest.approx(6, rel=1e-3)
    np.testing.assert_allclose(clip.pose_c2w, cameras.pose_c2w, atol=1e-9)
    assert np.abs(clip.video.astype(int) - video[::5][:8]).mean() < 8
    assert found.records[0].notes[0] == "8 of 40 frames of the video have a pose"
    np.testing.assert_array_equal(found.cameras(0).frame_index, np.arange(8) * 5)
    dense = bring_in(tmp_path / "src", tmp_path / "dense", "realestate10k", "--interpolate").load(0)
    assert (len(dense), dense.fps) == (36, pytest.approx(30, rel=1e-3))
    np.testing.assert_allclose(dense.pose_c2w[::5], cameras.pose_c2w, atol=1e-9)
    np.testing.assert_allclose(dense.pose_c2w[3, 0, 3], 0.6 * cameras.pose_c2w[1, 0, 3], atol=1e-9)
    write_realestate10k(tmp_path / "src/cameras/a.txt", cameras, timestamps_us=stamps * 3)
    bring_in(tmp_path / "src", tmp_path / "no", "realestate10k", code=1)
    assert "40 frames and 8 cameras" in refused(tmp_path / "no")[0]


def test_frame_numbers_of_a_dense_video(tmp_path, make_video, scene):
    make_video(tmp_path / "src/videos/a.mp4", scene(31)["video"], fps=30)
    (tmp_path / "src/cameras").mkdir()
    cameras = make_trajectory("truck", 6, width=64, height=48)
    write_realestate10k(tmp_path / "src/cameras/a.txt", cameras, timestamps_us=np.arange(6) * 6)
    (record,) = bring_in(tmp_path / "src", tmp_path / "out", "realestate10k").records
    assert (record.num_frames, record.fps) == (6, pytest.approx(5, rel=1e-3))


def test_intrinsics_of_another_size_are_refused(tmp_path):
    names = [f"images/{i}.png" for i in range(5)]
    write_images(tmp_path / "src", names)
    transforms(tmp_path / "src", names, cx=W, cy=H)
    bring_in(tmp_path / "src", tmp_path / "out", "nerfstudio", code=1)
    assert "192x128, 2 times" in refused(tmp_path / "out")[0]
    transforms(tmp_path / "src", names, w=2 * W, h=2 * H)
    bring_in(tmp_path / "src", tmp_path / "o", "nerfstudio", code=1)
    assert "(2 times)" in refused(tmp_path / "o")[0]


def test_image_numbers_may_be_padded(tmp_path):
    (tmp_path / "src").mkdir()
    cameras = make_trajectory("truck", 5, width=W, height=H)
    write_realestate10k(tmp_path / "src/a.txt", cameras, timestamps_us=np.arange(5) * 3)
    write_images(tmp_path / "src/a", [f"{i:04d}.png" for i in range(14)])
    found = bring_in(tmp_path / "src", tmp_path / "out", "realestate10k")
    assert (found.records[0].num_frames, found.records[0].fps) == (5, 24)
    np.testing.assert_allclose(found.load(0).pose_c2w, cameras.pose_c2w, atol=1e-9)


def test_the_undistorted_model_of_a_workspace_counts_once(tmp_path):
    cameras = make_trajectory("truck", 5, width=W, height=H)
    names = [f"{i}.png" for i in range(5)]
    for folder in ("src", "src/dense", "src/dense/0"):
        write_images(tmp_path / folder / "images", names)
    for model in ("src/sparse/0", "src/dense/0/sparse"):
        write_colmap(tmp_path / model, cameras, names=names)
    found = bring_in(tmp_path / "src", tmp_path / "out", "colmap")
    assert [record.source for record in found.records] == ["dense/0/sparse"]
