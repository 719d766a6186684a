"""What an evaluation refuses, and that it does so before anything is generated or written."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fw_data.dataset.reader import ClipDataset
from fw_train.config.schema import ClipConfig, ConfigError
from fw_train.evaluate.checkpoint import open_checkpoint
from fw_train.evaluate.options import EvaluateOptions
from fw_train.evaluate.run import evaluate
from fw_train.metrics.perceptual import Lpips
from fw_train.metrics.truth import choose_clips


def quiet(options: EvaluateOptions) -> list[str]:
    lines: list[str] = []
    evaluate(options, lines.append)
    return lines


MINI = ClipConfig(frames=5, height=32, width=48)


def rename(folder: Path) -> None:
    folder.rename(folder.with_name("stranger"))


def lose_a_frame(folder: Path) -> None:
    (folder / "images" / "frame_00002.png").unlink()


def tear(folder: Path) -> None:
    (folder / "geometry.npz").write_bytes(b"PK")


def shorten(folder: Path) -> None:
    about = json.loads((folder / "world.json").read_text())
    (folder / "world.json").write_text(json.dumps({**about, "frames": 9}))


def turn(folder: Path) -> None:
    with np.load(folder / "geometry.npz") as arrays:
        content = dict(arrays)
    content["requested_pose_c2w"] = np.repeat(np.eye(4)[None], 5, axis=0)
    content["requested_pose_c2w"][:, 1, 3] = np.arange(5)
    np.savez(folder / "geometry.npz", **content)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (rename, "stranger"),
        (lose_a_frame, r"4 .*images/"),
        (tear, "clip-00"),
        (shorten, "clip-00.*9.*32x48.*clip-01.*5"),
        (turn, "camera path.*clip-00"),
    ],
)
def test_worlds_that_do_not_match_are_refused(
    dataset: Path, tmp_path: Path, harm: Callable, message: str, perfect_worlds
):
    worlds = perfect_worlds(dataset, tmp_path / "worlds", 2)
    harm(worlds / "clip-00")
    with pytest.raises(ConfigError, match=message):
        quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def without_depth(data: Path, to: Path, count: int) -> Path:
    """The same dataset, where `count` clips have cameras only."""
    from fw_data.dataset.manifest import read_manifest, write_manifest

    shutil.copytree(data, to)
    records = read_manifest(to / "manifest.parquet")
    for index in range(count):
        members = {k: v for k, v in records[index].members.items() if k not in ("depth.zst", "conf.zst")}
        records[index] = records[index].model_copy(update={"has_depth": False, "members": members})
    write_manifest(to / "manifest.parquet", records)
    return to


def test_a_dataset_without_depth_is_refused_before_anything_is_generated(checkpoint, dataset, tmp_path, perfect_worlds):
    some = without_depth(dataset, tmp_path / "some", 2)
    records = ClipDataset(some).records
    choice = choose_clips(records, ClipConfig(frames=5, height=32, width=48), subset="all", count=None, training=MINI)
    assert choice.unusable == {"no depth (annotate them first)": 2}
    assert len(choice.records) == 10
    none = without_depth(dataset, tmp_path / "none", 12)
    options = EvaluateOptions(checkpoint=checkpoint, data=none, out=tmp_path / "out", split="all")
    with pytest.raises(ConfigError, match=r"12 clips.*depth"):
        quiet(options)
    worlds = perfect_worlds(dataset, tmp_path / "worlds", 1)
    with pytest.raises(ConfigError, match=r"clip-00.*depth"):
        quiet(EvaluateOptions(worlds=worlds, data=none, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_rooms_are_refused_with_the_command_that_takes_them(tmp_path: Path) -> None:
    for data in ("rooms", "rooms:0-9"):
        options = EvaluateOptions(checkpoint=tmp_path, data=Path(data), out=tmp_path / "out")
        with pytest.raises(ConfigError, match=rf"fw-train evidence --checkpoint {tmp_path} --data rooms"):
            quiet(options)
    assert not (tmp_path / "out").exists()


def test_the_unit_of_an_export_alone_is_that_of_its_training(checkpoint: Path, tmp_path: Path) -> None:
    export = tmp_path / "alone"
    shutil.copytree(checkpoint, export)
    for unit, by_first in (("first frame", True), ("all frames", False), (None, True)):
        stage = {"stage": "stage2", "steps": 1} | ({"scene_unit": unit} if unit else {})
        (export / "training.json").write_text(json.dumps({"format": 1, "stages": [stage]}))
        assert open_checkpoint(export).first_frame_only is by_first


def as_base(folder: Path) -> None:
    (folder / "training.json").write_text(json.dumps({"format": 1, "stages": [{"stage": "base", "steps": 3}]}))


def no_pipeline(folder: Path) -> None:
    (folder / "pipeline.json").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (as_base, "geometry"),
        (no_pipeline, r"pipeline\.json"),
        (no_config, r"config\.json"),
        (shutil.rmtree, "export"),
    ],
)
def test_a_checkpoint_that_cannot_be_evaluated(checkpoint: Path, dataset: Path, tmp_path: Path, harm, message: str):
    copy = tmp_path / "export"
    shutil.copytree(checkpoint, copy)
    harm(copy)
    with pytest.raises(ConfigError, match=message):
        quiet(EvaluateOptions(checkpoint=copy, data=dataset, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_lpips_of_images_below_its_network_is_refused(checkpoint, dataset, tmp_path, monkeypatch):
    class Network(Lpips):
        def __init__(self, weights: Path) -> None:
            assert weights.exists()

    monkeypatch.setattr("fw_train.evaluate.run.Lpips", Network)
    options = EvaluateOptions(checkpoint=checkpoint, data=dataset, out=tmp_path / "out", lpips_weights=checkpoint)
    with pytest.raises(ConfigError, match=r"35 .*32x48"):
        quiet(options)
    with pytest.raises(ConfigError, match="motion"):
        quiet(replace(options, lpips_weights=None, frames=1))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "CHECKPOINT"),
        ({"worlds": Path("w"), "checkpoint": Path("c")}, "CHECKPOINT"),
        ({"worlds": Path("w"), "steps": 3, "size": "16x16"}, "--size, --steps"),
        ({"worlds": Path("nowhere")}, "nowhere"),
        ({"checkpoint": Path("c"), "min_confidence": 2.0}, r"--min-confidence.*2\.0"),
        ({"checkpoint": Path("c"), "show": -1}, "--show"),
        ({"checkpoint": Path("CHECKPOINT"), "size": "64"}, "WIDTHxHEIGHT"),
        ({"checkpoint": Path("CHECKPOINT"), "frames": 6}, "5"),
        ({"checkpoint": Path("CHECKPOINT"), "clips": 0}, "clips"),
        ({"checkpoint": Path("CHECKPOINT"), "frames": 9}, "9"),
        ({"checkpoint": Path("CHECKPOINT"), "held_out": 1.0}, "held-out.*1"),
        ({"checkpoint": Path("CHECKPOINT"), "lpips_weights": Path("none")}, "none"),
        ({"checkpoint": Path("CHECKPOINT"), "against": (Path("none"),)}, r"none.*evaluation\.json"),
    ],
)
def test_options_that_cannot_be_used(checkpoint, dataset, tmp_path, options: dict[str, Any], message: str):
    if options.get("checkpoint") == Path("CHECKPOINT"):
        options = {**options, "checkpoint": checkpoint}
    with pytest.raises(ConfigError, match=message):
        quiet(EvaluateOptions(data=dataset, out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()
