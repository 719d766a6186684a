"""Rooms as data: what is drawn, what is refused, and that a run needs no files."""

from pathlib import Path

import pytest
import torch

from fw_toy.rooms.clip import HELD_OUT_WORLDS, render_room
from fw_train.config.load import from_mapping, is_rooms
from fw_train.config.schema import ClipConfig, ConfigError, TrainConfig
from fw_train.data.rooms import RoomDataset
from fw_train.data.samples import SampleSource
from fw_train.data.split import open_data
from fw_train.model_bundle import EncodedVideo
from fw_train.tasks.train import train

SMALL = {"frames": 5, "height": 32, "width": 48, "validate_on": 2, "pool": 4, "reuse": 2}


def config(**changes: object) -> TrainConfig:
    return from_mapping({"data": "rooms:10-19", "batch": 2, "clip": SMALL, "sampling": {"clips": 1}, **changes})


def test_a_range_trains_on_its_seeds_and_holds_out_others() -> None:
    dataset, split = open_data(config())
    assert [record.id for record in split.train] == [f"room-{seed}" for seed in range(10, 20)]
    assert [record.id for record in split.held_out] == [f"room-{HELD_OUT_WORLDS + i}" for i in range(2)]
    clip = render_room(12, frames=5, height=32, width=48)
    assert split.train[2].caption == clip.plan.caption
    assert (dataset.video("room-12", slice(1, 3)) == clip.video[1:3]).all()
    assert (dataset.geometry("room-12").depth_m == clip.depth_m).all()
    assert (dataset.geometry("room-12").trajectory.pose_c2w == clip.plan.pose_c2w).all()
    assert split.digest() == open_data(config())[1].digest()
    assert split.digest() != open_data(config(data="rooms:10-20"))[1].digest()


@pytest.mark.parametrize("data", ["rooms:5", "rooms:9-3", f"rooms:0-{HELD_OUT_WORLDS}", "rooms:"])
def test_other_ranges_are_refused(data: str) -> None:
    with pytest.raises(ConfigError, match=r"rooms.*(0-39999|FIRST)"):
        RoomDataset.open(Path(data), ClipConfig())


def test_a_folder_called_rooms_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_rooms(Path("rooms"))
    Path("rooms").mkdir()
    assert not is_rooms(Path("rooms"))
    assert not is_rooms(None)


def test_labels_are_left_out_where_no_loss_reads_them() -> None:
    dataset = open_data(config())[0]

    def encode(video: torch.Tensor) -> EncodedVideo:
        return EncodedVideo(video[:, :, ::4, ::8, ::8], None, None)

    clip = config().clip
    full = SampleSource(dataset, clip, encode).load("room-11", 0)
    bare = SampleSource(dataset, clip, encode, labels=False).load("room-11", 0)
    assert full.depth is not None
    assert bare.depth is None
    assert bare.scale == full.scale
    assert bare.nbytes() < full.nbytes() / 4


def test_a_run_on_rooms_resumes_from_anywhere(mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    common = {"stage": "base", "model": str(mini), "steps": 2, "out": str(tmp_path / "run")}
    outcome = train(config(**common), quiet=True)
    assert outcome.export is not None
    monkeypatch.chdir(tmp_path)
    assert train(config(**common, go_on=True), quiet=True).result.step == 2
