"""Output folders of geometry tools come in as the cameras they hold; unknown layouts are reported."""

import json
import struct
import zlib
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from fw_data import ClipDataset
from fw_data.cli import main
from fw_data.errors import DataError
from fw_data.importers.exr import decode_exr_depth
from fw_geometry.trajectories import make_trajectory

CAMERAS = make_trajectory("orbit", 8, width=64, height=48)


def bring_in(src, out, *options, code=0):
    assert main(["import", str(src), str(out), *options]) == code
    return ClipDataset(out)


def four(K):
    return np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=-1)


def same(dataset, K=CAMERAS.K):
    clip = dataset.load(0)
    np.testing.assert_allclose(clip.pose_c2w, CAMERAS.pose_c2w, atol=1e-6)
    np.testing.assert_allclose(clip.K, K, rtol=1e-6)
    return clip


def exr(depth, compression, extra=False):
    """An OpenEXR file of a half channel Z (and a float channel A before it), by the format's documentation."""
    height, width = depth.shape
    channels = [(b"A", 2), (b"Z", 1)] if extra else [(b"Z", 1)]
    listed = b"".join(name + b"\0" + struct.pack("<iIii", kind, 0, 1, 1) for name, kind in channels) + b"\0"
    box = struct.pack("<4i", 0, 0, width - 1, height - 1)
    attributes = [(b"channels", b"chlist", listed), (b"compression", b"compression", bytes([compression]))]
    attributes += [(b"dataWindow", b"box2i", box), (b"displayWindow", b"box2i", box)]
    header = b"\x76\x2f\x31\x01" + struct.pack("<I", 2)
    header += b"".join(n + b"\0" + k + b"\0" + struct.pack("<I", len(v)) + v for n, k, v in attributes) + b"\0"
    lines = 16 if compression == 3 else 1
    blocks = []
    for top in range(0, height, lines):
        rows = depth[top : top + lines]
        raw = b"".join(
            (np.ones(width, "<f4").tobytes() if extra else b"") + row.astype("<f2").tobytes() for row in rows
        )
        if compression:
            values = np.frombuffer(raw, np.uint8)
            values = np.concatenate([values[0::2], values[1::2]]).astype(np.int64)
            values[1:] = np.diff(values) + 128
            packed = zlib.compress(values.astype(np.uint8).tobytes())
            raw = packed if len(packed) < len(raw) else raw
        blocks.append(struct.pack("<ii", top, len(raw)) + raw)
    start = len(header) + 8 * len(blocks)
    offsets = np.cumsum([start, *map(len, blocks)])[:-1]
    return header + offsets.astype("<u8").tobytes() + b"".join(blocks)


@pytest.mark.parametrize("compression", [0, 2, 3])
@pytest.mark.parametrize("extra", [False, True])
def test_exr_depth(compression, extra):
    depth = np.random.default_rng(0).uniform(0.5, 9, (37, 21)).astype(np.float16)
    depth[3:30] = 2.5  # compresses
    content = exr(depth, compression, extra)
    np.testing.assert_array_equal(decode_exr_depth(content, "a.exr"), depth)
    for broken in (content[:200], content[:-9], b"no exr" + content, exr(depth, 9)):
        with pytest.raises(DataError, match=r"a\.exr"):
            decode_exr_depth(broken, "a.exr")


def test_vipe(tmp_path, make_video, scene):
    video = scene(8)["video"]
    make_video(tmp_path / "src/rgb/dog.mp4", video, fps=25)
    for name in ("pose", "intrinsics"):
        (tmp_path / "src" / name).mkdir()
    np.savez(tmp_path / "src/pose/dog.npz", data=CAMERAS.pose_c2w, inds=np.arange(8))
    np.savez(tmp_path / "src/intrinsics/dog.npz", data=four(CAMERAS.K), inds=np.arange(8))
    found = bring_in(tmp_path / "src", tmp_path / "out")  # --format auto
    same(found)
    record = found.records[0]
    assert (record.backend, record.units, record.fps, record.source) == ("import-tools", "metric", 25, "pose/dog.npz")
    (tmp_path / "src/depth").mkdir()
    with ZipFile(tmp_path / "src/depth/dog.zip", "w") as file:
        for i in range(7):
            file.writestr(f"{i:05d}.exr", exr(np.full((48, 64), 1 + i / 8), 3))
    found = bring_in(tmp_path / "src", tmp_path / "deep")
    assert found.records[0].notes == ["1 frames have no depth"]
    np.testing.assert_array_equal(found.load(0).depth_m[:, 5, 5], [*(1 + np.arange(7) / 8), 0])


def test_spatialvid_poses_every_fifth_of_a_second(tmp_path, make_video, scene):
    video = scene(46)["video"]
    make_video(tmp_path / "src/clip7/clip7.mp4", video, fps=30)
    w2c = CAMERAS.pose_w2c
    rows = np.concatenate([w2c[:, :3, 3], Rotation.from_matrix(w2c[:, :3, :3]).as_quat()], axis=-1)
    np.save(tmp_path / "src/clip7/poses.npy", rows)
    np.save(tmp_path / "src/clip7/intrinsics.npy", four(CAMERAS.K) / (64, 48, 64, 48))
    found = bring_in(tmp_path / "src", tmp_path / "out")
    clip = same(found)
    assert np.abs(clip.video.astype(int) - video[::6]).mean() < 8
    assert found.records[0].fps == pytest.approx(5, rel=1e-3)
    assert found.records[0].notes[0] == "8 of 46 frames have a pose"
    assert len(bring_in(tmp_path / "src", tmp_path / "all", "--interpolate").load(0)) == 43
    np.save(tmp_path / "src/clip7/poses.npy", rows[:5])
    np.save(tmp_path / "src/clip7/intrinsics.npy", np.full((5, 4), 0.5))
    bring_in(tmp_path / "src", tmp_path / "no", code=1)
    assert "46 frames and 5 poses" in (tmp_path / "no/refusals.jsonl").read_text()


def images(folder, count, width, height):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.fromarray(np.full((height, width, 3), 10 * i, np.uint8)).save(folder / f"{i}.png")


def test_vggt_long_scales_k_to_the_images(tmp_path):
    images(tmp_path / "src/images", 8, 128, 96)
    np.savetxt(tmp_path / "src/camera_poses.txt", CAMERAS.pose_c2w.reshape(-1, 16))
    np.savetxt(tmp_path / "src/intrinsic.txt", four(CAMERAS.K))
    found = bring_in(tmp_path / "src", tmp_path / "out")
    same(found, CAMERAS.K * [[2], [2], [1]])
    assert "64x48" in found.records[0].notes[0]
    images(tmp_path / "other/images", 8, 96, 96)
    for name in ("camera_poses.txt", "intrinsic.txt"):
        (tmp_path / "src" / name).rename(tmp_path / "other" / name)
    bring_in(tmp_path / "other", tmp_path / "no", code=1)
    assert "96x96" in (tmp_path / "no/refusals.jsonl").read_text()


def test_depth_anything_3_with_depth(tmp_path):
    images(tmp_path / "src/images", 8, 64, 48)
    depth = np.full((8, 48, 64), 2.0, np.float32)
    depth[:, :4] = np.nan
    (tmp_path / "src/exports/npz").mkdir(parents=True)
    np.savez(
        tmp_path / "src/exports/npz/results.npz", extrinsics=CAMERAS.pose_w2c[:, :3], intrinsics=CAMERAS.K, depth=depth
    )
    found = bring_in(tmp_path / "src", tmp_path / "out")
    clip = same(found)
    assert found.records[0].has_depth
    np.testing.assert_array_equal(clip.depth_m[:, 4:], 2)
    assert not clip.depth_m[:, :4].any()


def test_layouts_are_recognized_or_reported(tmp_path, capsys):
    images(tmp_path / "src/images", 5, 64, 48)
    assert main(["import", str(tmp_path / "src"), str(tmp_path / "out")]) == 2
    output = capsys.readouterr().err
    assert "unknown layout" in output
    for name in ("transforms.json", "cameras.bin", "ViPE", "SpatialVID", "groundtruth.txt", "19 columns"):
        assert name in output
    frames = [{"file_path": f"images/{i}.png", "transform_matrix": np.eye(4).tolist()} for i in range(5)]
    (tmp_path / "src/transforms.json").write_text(json.dumps({"w": 64, "h": 48, "fl_x": 60, "frames": frames}))
    assert main(["import", str(tmp_path / "src"), str(tmp_path / "out"), "--format", "colmap"]) == 2
    assert "it looks like nerfstudio" in capsys.readouterr().err
    assert bring_in(tmp_path / "src", tmp_path / "out").records[0].backend == "import-nerfstudio"
