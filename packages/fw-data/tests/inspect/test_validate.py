"""`validate` finds what is wrong: every kind of damage is done to a copy of a sound dataset."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from fw_data import ClipDataset
from fw_data.dataset import depth_codec
from fw_data.dataset.clip import Cameras, Clip, pack_cameras, pack_clip
from fw_data.dataset.manifest import write_manifest
from fw_data.dataset.schema import DatasetCard
from fw_data.dataset.shards import ShardWriter, describe
from fw_data.inspect.validate import check_clip, check_structure, run
from fw_data.options import ValidateOptions


@pytest.fixture
def dataset(shared_dataset, tmp_path) -> Path:
    shutil.copytree(shared_dataset[0], tmp_path / "set", ignore=shutil.ignore_patterns(".work"))
    return tmp_path / "set"


def _codes(path: Path) -> set[str]:
    dataset = ClipDataset(path)
    problems = list(check_structure(dataset))
    for record in dataset.records:
        problems += check_clip(dataset, record, content=True)
    return {problem.code for problem in problems}


def _rewrite(path: Path, change) -> None:
    """Write the dataset again with changed content and honest checksums: only the meaning is wrong."""
    before = ClipDataset(path)
    records = []
    clips = [(before.load(i), before.cameras(i), record) for i, record in enumerate(before.records)]
    with ShardWriter(path / "shards" / "000000.tar") as writer:
        for clip, cameras, record in clips:
            clip, cameras, record = change(clip, cameras, record)
            bare = record.model_copy(update={"shard": "", "members": {}})
            labels = None if clip.moving is None else clip.moving.astype(np.uint8)
            files = pack_clip(
                bare,
                video=clip.video,
                depth_m=clip.depth_m,
                confidence=clip.confidence,
                cameras=cameras,
                crf=14,
                labels=labels if record.has_masks else None,
            )
            records.append(
                record.model_copy(update={"members": writer.add(record.id, files), "shard": "shards/000000.tar"})
            )
    write_manifest(path / "manifest.parquet", records)
    card = DatasetCard.model_validate_json((path / "dataset.json").read_bytes())
    entry = describe(path / "shards" / "000000.tar", path, len(records))
    (path / "dataset.json").write_text(card.model_copy(update={"shards": [entry]}).model_dump_json())


def _cameras(cameras: Cameras, **changes) -> Cameras:
    return Cameras(**{**vars(cameras), **changes})


def _clip(clip: Clip, **changes) -> Clip:
    return Clip(**{**vars(clip), **changes})


def test_a_sound_dataset(dataset, capsys):
    assert _codes(dataset) == set()
    assert run(ValidateOptions(dataset=dataset)) == 0
    assert "2 clips, sound" in capsys.readouterr().out
    _rewrite(dataset, lambda *all_: all_)
    assert _codes(dataset) == set()


def test_torn_shard_lists_the_clips_it_lost(dataset, capsys):
    shard = dataset / "shards" / "000000.tar"
    second = ClipDataset(dataset).records[1]
    data = shard.read_bytes()
    shard.write_bytes(data[: second.members["depth.zst"].offset + 40])
    assert _codes(dataset) == {"shard-torn", "member-missing"}
    assert run(ValidateOptions(dataset=dataset, quick=True)) == 1
    output = capsys.readouterr().out
    assert f"member-missing: clip {second.id} (sub/b.mp4 [0:13]): no cameras.npz" in " ".join(output.split())
    assert ClipDataset(dataset).records[0].id not in output


def test_a_flipped_byte(dataset):
    shard = dataset / "shards" / "000000.tar"
    data = bytearray(shard.read_bytes())
    data[ClipDataset(dataset).records[0].members["mp4"].offset + 60] ^= 1
    shard.write_bytes(data)
    assert {"shard-changed", "checksum"} <= _codes(dataset)


def test_missing_and_unlisted_shards(dataset):
    shard = dataset / "shards" / "000000.tar"
    shutil.copy(shard, dataset / "shards" / "000007.tar")
    assert _codes(dataset) == {"unlisted-shard"}
    shard.unlink()
    assert _codes(dataset) == {"unlisted-shard", "shard-missing"}


def test_missing_member_and_wrong_card(dataset):
    records = ClipDataset(dataset).records
    members = {name: member for name, member in records[0].members.items() if name != "conf.zst"}
    write_manifest(dataset / "manifest.parquet", [records[0].model_copy(update={"members": members})])
    assert _codes(dataset) == {"bad-card", "member-missing", "member-unlisted"}
    (dataset / "dataset.json").write_text("{}")
    assert "bad-card" in _codes(dataset)


def test_world_to_camera_poses_are_found_by_reprojection(dataset):
    def invert(clip, cameras, record):
        return clip, _cameras(cameras, pose_c2w=np.linalg.inv(cameras.pose_c2w)), record

    _rewrite(dataset, invert)
    assert _codes(dataset) == {"reprojection"}


def test_a_wrong_focal_length_is_found_by_reprojection(dataset):
    def zoom(clip, cameras, record):
        return clip, _cameras(cameras, K=cameras.K * np.array([[1.5], [1.5], [1.0]])), record

    _rewrite(dataset, zoom)
    assert "reprojection" in _codes(dataset)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda c, k, r: (c, _cameras(k, pose_c2w=k.pose_c2w * [[1.1], [1.1], [1.1], [1.0]]), r), "cameras"),
        (lambda c, k, r: (c, _cameras(k, K=k.K * [[100.0], [100.0], [1.0]]), r), "cameras"),
        (lambda c, k, r: (c, _cameras(k, K=k.K + np.outer([1, 0, 0], [0, 0, 200.0])), r), "cameras"),
        (lambda c, k, r: (c, _cameras(k, pose_c2w=k.pose_c2w @ np.diag([-1.0, -1, 1, 1])), r), "cameras"),
        (lambda c, k, r: (c, _cameras(k, time_s=k.time_s[::-1].copy()), r), "cameras"),
        (lambda c, k, r: (c, k.select(slice(0, 9)), r), "shape"),
        (lambda c, k, r: (c, k, r.model_copy(update={"height": 64})), "shape"),
        (lambda c, k, r: (_clip(c, depth_m=np.zeros_like(c.depth_m)), k, r), "depth"),
        (lambda c, k, r: (c, k, r.model_copy(update={"num_frames": 20})), "clip-video"),
    ],
)
def test_content_that_makes_no_sense(dataset, change, code):
    _rewrite(dataset, change)
    assert code in _codes(dataset)


@pytest.mark.parametrize(
    ("change", "code"), [(lambda labels: labels + np.uint8(4), "masks"), (lambda labels: labels[:, :8], "shape")]
)
def test_masks_that_make_no_sense(dataset, change, code, monkeypatch):
    encode = depth_codec.encode_labels
    monkeypatch.setattr(depth_codec, "encode_labels", lambda labels: encode(change(labels)))
    _rewrite(dataset, lambda *all_: all_)
    assert _codes(dataset) == {code}


def test_a_row_that_is_not_the_record_in_the_shard(dataset):
    records = [record.model_copy(update={"caption": "other"}) for record in ClipDataset(dataset).records]
    write_manifest(dataset / "manifest.parquet", records)
    assert _codes(dataset) == {"record-differs"}


def test_camera_files_are_deterministic(dataset):
    cameras = ClipDataset(dataset).cameras(0)
    assert pack_cameras(cameras) == pack_cameras(cameras)
