"""Datasets out to other programs and back: independent readers agree, and the round trip keeps what the format has."""

import json
import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from fw_data import ClipDataset
from fw_data.cli import main
from fw_data.inspect.validate import check_clip, check_structure
from fw_geometry.formats import write_realestate10k

FLIP = np.diag([1.0, -1, -1, 1])


def sound(path: Path) -> bool:
    dataset = ClipDataset(path)
    problems = list(check_structure(dataset))
    for record in dataset.records:
        problems += check_clip(dataset, record, content=True)
    assert not problems
    return True


def export(dataset: Path, out: Path, kind: str, *options: str) -> Path:
    assert main(["export", str(dataset), str(out), "--format", kind, *options]) == 0
    return out


def bring_in(src: Path, out: Path, kind: str, *options: str, code: int = 0) -> ClipDataset:
    assert main(["import", str(src), str(out), "--format", kind, *options]) == code
    return ClipDataset(out)


def refusals(out: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (out / "refusals.jsonl").read_text().splitlines()]
    return {row["source"]: f"{row['code']}: {row['reason']}" for row in rows}


@pytest.mark.parametrize("kind", ["nerfstudio", "colmap", "colmap-text", "tum", "realestate10k", "legacy"])
def test_round_trip(shared_dataset, tmp_path, kind, capsys):
    before = ClipDataset(shared_dataset[0])
    kind, _, text = kind.partition("-")
    out = export(shared_dataset[0], tmp_path / "out", kind, *(["--text"] if text else []))
    assert "2 of 2 clips" in capsys.readouterr().out
    after = bring_in(out, tmp_path / "back", kind, *(["--units", "metric"] if kind in ("colmap", "legacy") else []))
    assert sound(tmp_path / "back")
    assert len(after) == 2
    captions = {"nerfstudio", "realestate10k", "legacy"}
    timed = {"tum", "realestate10k", "legacy"}
    for record in before.records:
        clip = before.load(record.id)
        (found,) = [r for r in after.records if record.id in r.source]
        again, cameras = after.load(found.id), after.cameras(found.id)
        np.testing.assert_allclose(again.pose_c2w, clip.pose_c2w, atol=1e-9)
        np.testing.assert_allclose(again.K, clip.K, atol=1e-9)
        assert np.abs(again.video.astype(int) - clip.video).mean() < 8  # encoded once more
        assert again.caption == (clip.caption if kind in captions else "")
        assert found.fps == (pytest.approx(record.fps, rel=1e-3) if kind in {*timed, "nerfstudio"} else 24)
        assert found.backend == f"import-{kind}"
        if kind in timed:
            np.testing.assert_allclose(cameras.time_s, before.cameras(record.id).time_s, atol=1e-6)
        assert found.has_depth == (kind != "realestate10k")
        if found.has_depth:
            assert found.units == "metric"
            np.testing.assert_allclose(again.depth_m, clip.depth_m, rtol=2**-11, atol=1.1e-4 if kind == "tum" else 1e-6)
            assert found.grade == "A"
            assert found.scores["reprojection_error"] < 0.01
        else:
            assert not again.depth_m.any()
            assert found.notes == ["cameras only: the scene has no depth"]
            assert set(found.members) == {"mp4", "cameras.npz", "json"}
    if kind == "realestate10k":  # the sheets of clips without depth
        assert main(["inspect", str(tmp_path / "back"), "--clips", "1"]) == 0


@pytest.mark.parametrize("options", [(), ("--text",)], ids=["binary", "text"])
def test_colmap_is_read_by_pycolmap(shared_dataset, tmp_path, options):
    dataset = ClipDataset(shared_dataset[0])
    record = dataset.records[1]
    out = export(shared_dataset[0], tmp_path / "out", "colmap", "--clips", record.id, *options)
    assert [path.name for path in out.iterdir()] == [record.id]
    model = pycolmap.Reconstruction(str(out / record.id / "sparse" / "0"))
    clip = dataset.load(record.id)
    assert model.num_images() == len(clip)
    for image in model.images.values():
        index = int(Path(image.name).stem.split("_")[1]) - 1
        c2w = np.linalg.inv(np.vstack([image.cam_from_world().matrix(), [0, 0, 0, 1]]))
        np.testing.assert_allclose(c2w, clip.pose_c2w[index], atol=1e-9)
        np.testing.assert_allclose(model.cameras[image.camera_id].calibration_matrix(), clip.K[index])
        with Image.open(out / record.id / "images" / image.name) as image:
            np.testing.assert_array_equal(np.asarray(image), clip.video[index])
    points = np.stack([point.xyz for point in model.points3D.values()])
    assert len(points) > 1000
    np.testing.assert_allclose(points @ (0.3, 0.2, -1.0), -4.0, atol=0.02)  # the plane that the clip shows
    lengths = np.array([point.track.length() for point in model.points3D.values()])
    assert np.median(lengths) >= 5  # of 6 chosen frames and its own
    model.update_point_3d_errors()
    assert max(point.error for point in model.points3D.values()) < 1e-3
    depth = pycolmap.__dict__.get("DepthMap")
    raw = (out / record.id / "stereo/depth_maps/frame_00003.png.geometric.bin").read_bytes()
    assert raw.startswith(b"64&48&1&")
    np.testing.assert_array_equal(np.frombuffer(raw[8:], "<f4").reshape(48, 64), clip.depth_m[2])
    assert depth is None or depth


def test_other_files_mean_what_their_formats_say(shared_dataset, tmp_path):
    dataset = ClipDataset(shared_dataset[0])
    clip = dataset.load(0)
    w2c = np.linalg.inv(clip.pose_c2w)

    out = export(shared_dataset[0], tmp_path / "re10k", "realestate10k")
    rows = np.loadtxt(out / "cameras" / f"{clip.id}.txt", skiprows=1)
    np.testing.assert_allclose(rows[:, 1:5] * (64, 48, 64, 48), clip.K[:, [0, 1, 0, 1], [0, 1, 2, 2]])
    np.testing.assert_allclose(rows[:, 7:].reshape(-1, 3, 4), w2c[:, :3], atol=1e-12)
    assert (out / "videos" / f"{clip.id}.mp4").read_bytes() == dataset.read(0, "mp4")
    assert json.loads((out / "clips.json").read_text())[0]["caption"] == "a slanted plane"

    out = export(shared_dataset[0], tmp_path / "ns", "nerfstudio") / clip.id
    import trimesh

    cloud = trimesh.load(out / json.loads((out / "transforms.json").read_text())["ply_file_path"])
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_allclose(np.asarray(cloud.vertices) @ (0.3, 0.2, -1.0), -4.0, atol=0.02)
    scene = json.loads((out / "transforms.json").read_text())
    np.testing.assert_allclose(np.array([f["transform_matrix"] for f in scene["frames"]]) @ FLIP, clip.pose_c2w)
    assert (scene["fl_x"], scene["cx"], scene["w"]) == (clip.K[0, 0, 0], clip.K[0, 0, 2], 64)
    # as nerfstudio reads it: the array times 1e-3
    depth = np.load(out / scene["frames"][4]["depth_file_path"]) * 1e-3
    np.testing.assert_allclose(depth, clip.depth_m[4], rtol=1e-6)

    out = export(shared_dataset[0], tmp_path / "tum", "tum") / clip.id
    rows = np.loadtxt(out / "groundtruth.txt")
    np.testing.assert_allclose(rows[:, 1:4], clip.pose_c2w[:, :3, 3], atol=1e-12)
    np.testing.assert_allclose(Rotation.from_quat(rows[:, 4:]).as_matrix(), clip.pose_c2w[:, :3, :3], atol=1e-9)
    with Image.open(out / "depth" / "frame_00002.png") as image:
        np.testing.assert_allclose(np.asarray(image) / 5000, clip.depth_m[1], atol=1.1e-4)

    out = export(shared_dataset[0], tmp_path / "legacy", "legacy")
    row = json.loads((out / "metadata.json").read_text())[0]
    assert list(row) == ["video", "prompt", "depth", "points", "camera_params"]
    lines = [[float(word) for word in line.split()] for line in (out / row["camera_params"]).read_text().splitlines()]
    assert {len(line) for line in lines} == {19}
    np.testing.assert_allclose(np.array(lines)[:, -12:].reshape(-1, 3, 4), w2c[:, :3], atol=1e-12)
    points, depth = np.load(out / row["points"]), np.load(out / row["depth"])
    np.testing.assert_array_equal(depth, clip.depth_m)
    assert points.shape == (13, 48, 64, 3)
    # point maps through the camera file come back to their own pixels
    camera = points[6].reshape(-1, 3) @ w2c[6, :3, :3].T + w2c[6, :3, 3]
    pixels = camera @ clip.K[6].T
    expected = np.stack(np.meshgrid(np.arange(64) + 0.5, np.arange(48) + 0.5), -1).reshape(-1, 2)
    np.testing.assert_allclose(pixels[:, :2] / pixels[:, 2:], expected, atol=2e-3)


def test_what_cannot_be_exported(shared_dataset, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    for arguments, message in [
        ((tmp_path / "full", "--format", "tum"), "is not empty"),
        ((tmp_path / "new", "--format", "tum", "--text"), "belongs to --format colmap"),
        ((tmp_path / "new", "--format", "tum", "--clips", "nobody"), "has no clip 'nobody'"),
    ]:
        assert main(["export", str(shared_dataset[0]), *map(str, arguments)]) == 2
        assert message in capsys.readouterr().err
    cameras_only = export(shared_dataset[0], tmp_path / "re10k", "realestate10k")
    bring_in(cameras_only, tmp_path / "flat", "realestate10k")
    assert main(["export", str(tmp_path / "flat"), str(tmp_path / "no"), "--format", "legacy"]) == 1
    assert "left out: 2 clips without depth" in capsys.readouterr().out
    again = export(tmp_path / "flat", tmp_path / "ns", "nerfstudio")
    assert not list(again.rglob("*.npy"))
    assert not bring_in(again, tmp_path / "flat2", "nerfstudio").records[0].has_depth


def frames_of(scene, count: int, height: int, width: int, folder: Path, names=None) -> dict[str, np.ndarray]:
    content = scene(count, height, width)
    folder.mkdir(parents=True)
    for index, frame in enumerate(content["video"]):
        name = names[index] if names else f"{index}.png"
        Image.fromarray(frame).save(folder / name)
    return content


def test_a_foreign_nerfstudio_scene_is_cropped_with_its_cameras(scene, tmp_path):
    """Odd portrait frames, Blender's angle, frames listed out of order, no suffix, depth at half size for some."""
    content = frames_of(scene, 12, 70, 50, tmp_path / "src" / "images")
    K = content["K"][0]
    frames = []
    for index in (11, 2, *range(2), *range(3, 11)):
        row = {"file_path": f"images/{index}", "transform_matrix": (content["pose_c2w"][index] @ FLIP).tolist()}
        if index != 5:
            step = 2 if index < 7 else 1
            np.save(tmp_path / "src" / f"{index}.npy", content["depth_m"][index, ::step, ::step] * 1000)
            row["depth_file_path"] = f"{index}.npy"
        frames.append(row)
    data = {"camera_angle_x": 2 * np.arctan(25 / K[0, 0]), "frames": frames}
    (tmp_path / "src" / "transforms.json").write_text(json.dumps(data))
    dataset = bring_in(tmp_path / "src", tmp_path / "out", "nerfstudio", "--frames", "7", "--fps", "10")
    assert sound(tmp_path / "out")
    first, second = dataset.records
    assert (first.num_frames, second.num_frames, first.width, first.height) == (7, 5, 48, 64)
    assert (second.start_frame, second.fps, second.units) == (7, 10, "scene")
    assert first.notes == ["1 frames have no depth"]
    clip = dataset.load(1)
    relative = np.linalg.inv(content["pose_c2w"][7]) @ content["pose_c2w"][7:]
    np.testing.assert_allclose(clip.pose_c2w, relative, atol=1e-9)
    scale = 48 / 50  # the width fits, 67 rows of which the middle 64 stay
    np.testing.assert_allclose(clip.K[0, 0], [K[0, 0] * scale, 0, 24], atol=1e-9)
    assert clip.K[0, 1, 2] == pytest.approx(35 * 67 / 70 - 1, abs=1e-9)
    # the depth fits the cropped pixels: unprojected points lie on the plane of the scene
    world = clip.points_world @ content["pose_c2w"][7, :3, :3].T + content["pose_c2w"][7, :3, 3]
    np.testing.assert_allclose(world[clip.valid] @ (0.3, 0.2, -1.0), -4.0, atol=0.04)
    assert not dataset.load(0).depth_m[5].any()


def test_realestate10k_with_images_named_by_time(scene, tmp_path, make_video):
    stamps = np.arange(9) * 33_366 + 1_000_000
    content = frames_of(scene, 9, 48, 64, tmp_path / "src/frames/one", [f"{stamp}.png" for stamp in stamps])
    Image.fromarray(content["video"][0]).save(tmp_path / "src/frames/one/7.png")  # of no pose: left alone
    (tmp_path / "src/cameras").mkdir()
    from fw_geometry.camera import Trajectory

    path = Trajectory(pose_c2w=content["pose_c2w"], K=content["K"], width=64, height=48)
    write_realestate10k(tmp_path / "src/cameras/one.txt", path, timestamps_us=stamps)
    make_video(tmp_path / "src/videos/two.mp4", content["video"])
    write_realestate10k(tmp_path / "src/cameras/two.txt", path.slice(0, 8))
    write_realestate10k(tmp_path / "src/cameras/three.txt", path)
    (tmp_path / "src/cameras/four.txt").write_text("no poses\n1 2 3\n")
    make_video(tmp_path / "src/videos/four.mp4", content["video"])
    dataset = bring_in(tmp_path / "src", tmp_path / "out", "realestate10k")
    assert sound(tmp_path / "out")
    (record,) = dataset.records
    assert (record.source, record.fps) == ("cameras/one.txt", pytest.approx(1e6 / 33_366))
    assert dataset.cameras(0).time_s[0] == 1.0
    assert np.abs(dataset.load(0).video.astype(int) - content["video"]).mean() < 8
    found = refusals(tmp_path / "out")
    assert "frame-count: two.txt: 9 frames and 8 cameras" in found["cameras/two.txt"]
    assert "no-frames: three.txt: no videos/three.mp4" in found["cameras/three.txt"]
    assert "3 columns, expected 19" in found["cameras/four.txt"]


def test_tum_gaps_cut_and_depth_pairs_by_time(scene, tmp_path):
    content = frames_of(scene, 14, 48, 64, tmp_path / "src/seq/rgb")
    time_s = np.arange(14) / 30
    folder = tmp_path / "src/seq"
    (folder / "rgb.txt").write_text("# c\n" + "".join(f"{t:.6f} rgb/{i}.png\n" for i, t in enumerate(time_s)))
    keep = [i for i in range(14) if i not in (6, 7, 8)]  # 0.13 s without a pose
    q = Rotation.from_matrix(content["pose_c2w"][:, :3, :3]).as_quat()
    rows = [f"{time_s[i]:.6f} " + " ".join(map(str, [*content["pose_c2w"][i, :3, 3], *q[i]])) for i in keep]
    (folder / "groundtruth.txt").write_text("\n".join(rows))
    (folder / "depth").mkdir()
    listed = []
    for i in range(14):
        Image.fromarray(np.round(content["depth_m"][i] * 5000).astype(np.uint16)).save(folder / f"depth/{i}.png")
        listed.append(f"{time_s[i] + (0.012 if i != 2 else 0.03):.6f} depth/{i}.png")
    (folder / "depth.txt").write_text("\n".join(row for i, row in enumerate(listed) if i != 3))
    assert bring_in(tmp_path / "src", tmp_path / "none", "tum", code=1).records == []
    assert "no-intrinsics" in refusals(tmp_path / "none")["seq"]
    K = content["K"][0]
    intrinsics = [str(v) for v in (K[0, 0], K[1, 1], K[0, 2], K[1, 2])]
    dataset = bring_in(tmp_path / "src", tmp_path / "out", "tum", "--intrinsics", *intrinsics)
    assert sound(tmp_path / "out")
    assert [(r.start_frame, r.num_frames, r.units) for r in dataset.records] == [(0, 6, "metric"), (9, 5, "metric")]
    assert dataset.records[0].notes == ["3 of 14 images have no pose", "1 frames have no depth"]
    first = dataset.load(0)
    assert not first.depth_m[2].any()  # 0.03 s off
    np.testing.assert_allclose(first.depth_m[4], content["depth_m"][4], atol=3e-3)
    np.testing.assert_allclose(first.pose_c2w, content["pose_c2w"][:6], atol=1e-6)


def test_a_tum_path_with_a_video(scene, tmp_path, make_video):
    content = scene(9)
    make_video(tmp_path / "src/seq/film.mp4", content["video"], fps=20)
    q = Rotation.from_matrix(content["pose_c2w"][:, :3, :3]).as_quat()
    rows = [" ".join(map(repr, [i / 20, *content["pose_c2w"][i, :3, 3].tolist(), *q[i].tolist()])) for i in range(9)]
    (tmp_path / "src/seq/groundtruth.txt").write_text("\n".join(rows))
    dataset = bring_in(tmp_path / "src", tmp_path / "out", "tum", "--intrinsics", "57.6", "57.6", "32", "24")
    assert sound(tmp_path / "out")
    clip = dataset.load(0)
    assert (clip.fps, dataset.records[0].has_depth) == (20, False)
    np.testing.assert_allclose(clip.pose_c2w, content["pose_c2w"], atol=1e-6)
    assert np.abs(clip.video.astype(int) - content["video"]).mean() < 8


def test_what_cannot_be_imported_is_listed(scene, tmp_path, shared_dataset, capsys):
    src = tmp_path / "src"
    for name, change in {
        "bent": {"camera_model": "EQUIRECTANGULAR"},
        "sizes": {"w": 60},
        "gone": {"frames": [{"file_path": "images/99.png", "transform_matrix": np.eye(4).tolist()}]},
        "short": {},
    }.items():
        content = frames_of(scene, 3 if name == "short" else 6, 48, 64, src / name / "images")
        frames = [
            {"file_path": f"images/{i}.png", "transform_matrix": pose.tolist()}
            for i, pose in enumerate(content["pose_c2w"])
        ]
        data = {"w": 64, "h": 48, "fl_x": 60, "frames": frames} | change
        (src / name / "transforms.json").write_text(json.dumps(data))
    (src / "text").mkdir()
    (src / "text" / "transforms.json").write_text("no json")
    assert len(bring_in(src, tmp_path / "out", "nerfstudio", code=1)) == 0
    found = refusals(tmp_path / "out")
    assert len(found) == 5
    for name, message in {
        "bent": "EQUIRECTANGULAR",
        "sizes": "64x48, the cameras are for 60x48",
        "gone": "no image images/99.png",
        "short": "too-short: 3 frames",
        "text": "not JSON",
    }.items():
        assert message in found[f"{name}/transforms.json"]
    assert "EQUIRECTANGULAR" in capsys.readouterr().out
    for arguments, message in [
        ((src, tmp_path / "out"), "is not empty"),
        ((tmp_path / "nowhere", tmp_path / "x"), "is not a folder"),
        ((shared_dataset[0], tmp_path / "x"), "holds nothing of the format"),
        ((src, tmp_path / "x", "--size", "9x9"), "multiples of 16"),
    ]:
        assert main(["import", *map(str, arguments), "--format", "nerfstudio"]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_legacy_list_is_read_with_care(shared_dataset, tmp_path, capsys):
    src = export(shared_dataset[0], tmp_path / "src", "legacy")
    rows = json.loads((src / "metadata.json").read_text())
    shutil.copy(src / rows[0]["video"], src / "videos" / "flat.mp4")
    shutil.copy(src / rows[0]["video"], src / "videos" / "wrong.mp4")
    np.save(src / "depths" / "wrong.npy", np.zeros((13, 4, 4), np.float32))
    flat = {"video": "videos/flat.mp4", "camera_params": rows[0]["camera_params"]}
    rows += [flat, rows[0] | {"video": "videos/wrong.mp4", "depth": "depths/wrong.npy"}]
    rows += [rows[0] | {"video": "videos/gone.mp4"}, flat | {"video": "videos/none.mp4", "camera_params": "../x.txt"}]
    shutil.copy(src / rows[0]["video"], src / "videos" / "none.mp4")
    rows[0]["prompt"] = "two\n lines"
    (src / "metadata.json").write_text(json.dumps(rows))
    dataset = bring_in(src, tmp_path / "out", "legacy", "--depth-unit", "0.01")
    assert sound(tmp_path / "out")
    found = {record.source: record for record in dataset.records}
    assert set(found) == {rows[0]["video"], rows[1]["video"], "videos/flat.mp4"}
    assert not found["videos/flat.mp4"].has_depth
    assert (found[rows[0]["video"]].caption, found[rows[0]["video"]].units) == ("two lines", "scene")
    stored = np.load(src / rows[0]["depth"])
    np.testing.assert_allclose(dataset.load(found[rows[0]["video"]].id).depth_m, stored / 100, rtol=2**-11)
    found = refusals(tmp_path / "out")
    assert "wrong.npy has shape (13, 4, 4)" in found["videos/wrong.mp4"]
    assert "gone.mp4 is missing" in found["videos/gone.mp4"]
    assert "../x.txt leads out of the folder" in found["videos/none.mp4"]
    for content, message in [
        ("{", "is no list of videos"),
        (json.dumps([{"video": "a.mp4"}]), "camera_params"),
        (json.dumps([flat | {"video": "../a.mp4"}]), "leads out of the folder"),
        (json.dumps([flat, flat]), "lists videos/flat.mp4 twice"),
    ]:
        (src / "metadata.json").write_text(content)
        assert main(["import", str(src), str(tmp_path / "x"), "--format", "legacy"]) == 2
        assert message in capsys.readouterr().err


def test_the_same_import_gives_the_same_bytes(shared_dataset, tmp_path):
    src = export(shared_dataset[0], tmp_path / "src", "nerfstudio")
    for name in ("a", "b"):
        bring_in(src, tmp_path / name, "nerfstudio")
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert {"manifest.parquet", "dataset.json", "refusals.jsonl", "shards/000000.tar"} == {f.as_posix() for f in files}
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    shutil.rmtree(tmp_path / "b")
