"""Evaluations from end to end with a mini model: generated, resumed, measured from a folder, compared, refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from fw_data.dataset import ClipDataset
from fw_geometry import unproject
from fw_model.autoencoder import BlockDCT
from fw_model.companions import Sampling
from fw_model.config import WorldConfig
from fw_model.export import export_world
from fw_model.pipeline import WorldPipeline
from fw_model.result import World
from fw_model.text import HashTextEncoder
from fw_model.world import FantasyWorld
from fw_train.cli import main
from fw_train.clips import split_clips
from fw_train.config import ClipConfig, ConfigError, TrainConfig
from fw_train.evaluate.evaluation import read_evaluation
from fw_train.evaluate.options import CompareOptions, EvaluateOptions
from fw_train.evaluate.page import svg_paths
from fw_train.evaluate.perceptual import Lpips
from fw_train.evaluate.run import compare_runs, evaluate
from fw_train.evaluate.truth import choose_clips, load_truth
from fw_train.evaluate.worlds import read_world


@pytest.fixture(autouse=True, scope="module")
def few_points() -> Iterator[None]:
    """Clouds of worlds that an untrained model makes lie far from the truth, where the nearest point takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fw_train.evaluate.measure._MOST_POINTS", 300)
        yield


@pytest.fixture(scope="module")
def checkpoint(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mini world of random weights that generates five frames of 32x48 in one step."""
    config = WorldConfig.from_json(mini.read_text())
    text = HashTextEncoder(text_len=config.video.text_len, text_dim=config.video.text_dim)
    sampling = Sampling(frames=5, height=32, width=48, steps=1, guidance=1.0)
    pipeline = WorldPipeline(FantasyWorld(config, seed=0), BlockDCT(), text, sampling=sampling)
    return pipeline.save(tmp_path_factory.mktemp("checkpoint") / "export")


@pytest.fixture(scope="module")
def generated(checkpoint: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of three clips."""
    out = tmp_path_factory.mktemp("evaluation") / "first"
    quiet(EvaluateOptions(checkpoint=checkpoint, data=dataset, out=out, split="all", clips=3))
    return out


def quiet(options: EvaluateOptions) -> list[str]:
    lines: list[str] = []
    evaluate(options, lines.append)
    return lines


def perfect_worlds(data: Path, folder: Path, clips: int = 3, change: Callable[[World], World] = lambda w: w) -> Path:
    """Worlds without fault, as `fw generate` writes them."""
    dataset = ClipDataset(data)
    for record in dataset.records[:clips]:
        truth = load_truth(dataset, record.id, frames=5, height=32, width=48, min_confidence=0.3)
        path = truth.trajectory
        K, pose = torch.from_numpy(path.K).float(), torch.from_numpy(path.pose_c2w).float()
        sure = np.full(truth.depth.shape, 2, np.float32)
        world = World(
            video=truth.video,
            depth=truth.depth,
            depth_confidence=sure,
            points=unproject(torch.from_numpy(truth.depth), K, pose).numpy(),
            points_confidence=sure,
            trajectory=path,
            requested=path,
        )
        export_world(change(world), folder / record.id)
    return folder


def test_an_evaluation_says_everything(generated: Path, dataset: Path):
    found = read_evaluation(generated)
    assert len(found.clips) == 3
    assert {"video/psnr", "depth/abs_rel", "pose/ate", "points/chamfer", "follow/rotation"} <= set(found.summary)
    assert found.summary["video/psnr"].count == 3
    assert found.measured["frames"] == 5
    assert (found.made["steps"], found.made["guidance"], found.made["model"]) == (1, 1.0, "mini")
    page = (generated / "index.html").read_text()
    for clip in found.clips:
        assert clip.id in page
    assert page.count("data:image/png;base64,") == 3 * 4
    assert 'src="http' not in page
    assert 'href="' not in page
    for part in page.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")


def test_a_second_run_generates_only_what_is_missing(checkpoint, dataset, generated, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(generated, out)
    lost = read_evaluation(out).clips[1].id
    shutil.rmtree(out / "worlds" / lost)
    (out / "worlds" / f".{lost}.partial").mkdir()
    asked = []
    generate = WorldPipeline.generate

    def spy(self, image, prompt, trajectory, **options):
        asked.append(prompt)
        return generate(self, image, prompt, trajectory, **options)

    monkeypatch.setattr(WorldPipeline, "generate", spy)
    options = EvaluateOptions(checkpoint=checkpoint, data=dataset, out=out, split="all", clips=3)
    assert "worlds: 2 are there already, 1 to generate" in quiet(options)
    assert asked == [ClipDataset(dataset).record(lost).caption]
    first, again = read_evaluation(generated), read_evaluation(out)
    assert [clip.scores for clip in first.clips] == [clip.scores for clip in again.clips]
    quiet(replace(options, clips=4))
    assert len(asked) == 2
    assert [clip.id for clip in read_evaluation(out).clips][:3] == [clip.id for clip in first.clips]
    for changed, message in (({"steps": 2}, "steps: 1 then, 2 now"), ({"seed": 5}, "seed: 0 then, 5 now")):
        with pytest.raises(ConfigError, match=message):
            quiet(replace(options, **changed))
    assert len(asked) == 2


def test_an_interrupted_run_leaves_whole_worlds_and_goes_on(checkpoint, dataset, tmp_path, monkeypatch, capsys):
    words = ["evaluate", str(checkpoint), "--data", str(dataset), "--out", str(tmp_path), "--split", "all"]
    words += ["--clips", "2", "--show", "0"]
    generate, begun = WorldPipeline.generate, []

    def stopped_in_the_second(self, *arguments, **options):
        begun.append(1)
        for report in generate(self, *arguments, **options):
            if len(begun) == 2 and report.stage == "decode":
                raise KeyboardInterrupt
            yield report

    with monkeypatch.context() as patch:
        patch.setattr(WorldPipeline, "generate", stopped_in_the_second)
        with pytest.raises(SystemExit) as stopped:
            main(words)
    assert stopped.value.code == 130
    assert "the same command goes on from here" in capsys.readouterr().err
    assert len(list((tmp_path / "worlds").iterdir())) == 1
    with pytest.raises(SystemExit) as done:
        main(words)
    assert done.value.code == 0
    assert "1 are there already, 1 to generate" in capsys.readouterr().out


def test_other_weights_are_other_worlds(checkpoint: Path, dataset: Path, generated: Path, mini: Path, tmp_path: Path):
    other = tmp_path / "export"
    shutil.copytree(checkpoint, other)
    FantasyWorld(WorldConfig.from_json(mini.read_text()), seed=1).save_pretrained(other)
    with pytest.raises(ConfigError, match=r"weights: .* then, .* now"):
        quiet(EvaluateOptions(checkpoint=other, data=dataset, out=generated, split="all", clips=3))


def test_worlds_that_exist_are_measured_as_they_are(dataset: Path, tmp_path: Path):
    worlds = perfect_worlds(dataset, tmp_path / "worlds")
    quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "out"))
    found = read_evaluation(tmp_path / "out").summary
    assert found["video/psnr"].mean == 100
    assert found["video/ssim"].mean == 1
    for name in ("depth/abs_rel", "pose/ate", "points/chamfer", "follow/rotation"):
        assert found[name].mean < 1e-5, name
    for name in ("consistency/photometric_ratio", "consistency/depth_ratio"):
        assert found[name].mean < 0.3, name


def test_the_unit_a_world_was_generated_in_does_not_count(dataset: Path, tmp_path: Path):
    def in_metres(world: World) -> World:
        return replace(
            world,
            depth=world.depth * np.float32(4),
            points=world.points * np.float32(4),
            trajectory=world.trajectory.scaled(4),
            requested=world.requested.scaled(4),
            settings={"scene_scale": 4.0},
        )

    worlds = perfect_worlds(dataset, tmp_path / "worlds", 1, in_metres)
    quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "out"))
    assert read_evaluation(tmp_path / "out").summary["points/chamfer"].mean < 1e-5


def test_a_world_comes_back_from_its_folder(dataset: Path, tmp_path: Path):
    perfect_worlds(dataset, tmp_path, 1)
    folder = next(tmp_path.iterdir())
    world = read_world(folder)
    truth = load_truth(ClipDataset(dataset), folder.name, frames=5, height=32, width=48, min_confidence=0.3)
    np.testing.assert_array_equal(world.video, truth.video)
    np.testing.assert_array_equal(world.depth, truth.depth)
    np.testing.assert_array_equal(world.requested.pose_c2w, truth.trajectory.pose_c2w)


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
        (rename, "belong to no clip of .*: stranger"),
        (lose_a_frame, r"4 pictures in images/"),
        (tear, "no whole world"),
        (shorten, "different frames or size: clip-00 is 9 frames of 32x48, clip-01 is 5"),
        (turn, "another camera path than that of clip clip-00"),
    ],
)
def test_worlds_that_do_not_match_are_refused(dataset: Path, tmp_path: Path, harm: Callable, message: str):
    worlds = perfect_worlds(dataset, tmp_path / "worlds", 2)
    harm(worlds / "clip-00")
    with pytest.raises(ConfigError, match=message):
        quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def without_depth(data: Path, to: Path, count: int) -> Path:
    """The same dataset, where `count` clips have cameras only."""
    from fw_data.manifest import read_manifest, write_manifest

    shutil.copytree(data, to)
    records = read_manifest(to / "manifest.parquet")
    for index in range(count):
        members = {k: v for k, v in records[index].members.items() if k not in ("depth.zst", "conf.zst")}
        records[index] = records[index].model_copy(update={"has_depth": False, "members": members})
    write_manifest(to / "manifest.parquet", records)
    return to


def test_a_dataset_without_depth_is_refused_before_anything_is_generated(checkpoint, dataset, tmp_path):
    some = without_depth(dataset, tmp_path / "some", 2)
    records = ClipDataset(some).records
    choice = choose_clips(records, ClipConfig(frames=5, height=32, width=48), subset="all", count=None, training=MINI)
    assert choice.unusable == {"no depth (annotate them first)": 2}
    assert len(choice.records) == 10
    none = without_depth(dataset, tmp_path / "none", 12)
    options = EvaluateOptions(checkpoint=checkpoint, data=none, out=tmp_path / "out", split="all")
    with pytest.raises(ConfigError, match=r"none of 12 clips .* \(12 clips: no depth"):
        quiet(options)
    worlds = perfect_worlds(dataset, tmp_path / "worlds", 1)
    with pytest.raises(ConfigError, match=r"clip clip-00 .* cannot be measured: no depth"):
        quiet(EvaluateOptions(worlds=worlds, data=none, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


MINI = ClipConfig(frames=5, height=32, width=48)


def test_held_out_clips_are_those_of_the_training_run(checkpoint: Path, dataset: Path, tmp_path: Path):
    training = replace(MINI, held_out=0.4)
    run = tmp_path / "run"
    shutil.copytree(checkpoint, run / "export")
    (run / "checkpoints").mkdir()
    (run / "config.json").write_text(json.dumps(TrainConfig(stage="stage2", clip=training).to_json()))
    lines = quiet(EvaluateOptions(checkpoint=run, data=dataset, out=tmp_path / "out", show=0))
    records = ClipDataset(dataset).records
    wanted = {record.id for record in split_clips(records, training).held_out}
    assert 1 < len(wanted) < 12
    assert {clip.id for clip in read_evaluation(tmp_path / "out").clips} == wanted
    assert not any("no run around" in line for line in lines)
    with pytest.raises(ConfigError, match=r"held out 0\.4; leave it out"):
        quiet(EvaluateOptions(checkpoint=run, data=dataset, out=tmp_path / "other", held_out=0.2))


def as_base(folder: Path) -> None:
    (folder / "training.json").write_text(json.dumps({"format": 1, "stages": [{"stage": "base", "steps": 3}]}))


def no_pipeline(folder: Path) -> None:
    (folder / "pipeline.json").unlink()


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (as_base, "geometry branch has not been trained"),
        (no_pipeline, "pipeline.json does not read"),
        (no_config, "no config.json"),
        (shutil.rmtree, "does not exist"),
    ],
)
def test_a_checkpoint_that_cannot_be_evaluated(checkpoint: Path, dataset: Path, tmp_path: Path, harm, message: str):
    copy = tmp_path / "export"
    shutil.copytree(checkpoint, copy)
    harm(copy)
    with pytest.raises(ConfigError, match=message):
        quiet(EvaluateOptions(checkpoint=copy, data=dataset, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give a CHECKPOINT"),
        ({"worlds": Path("w"), "checkpoint": Path("c")}, "give a CHECKPOINT"),
        ({"worlds": Path("w"), "steps": 3, "size": "16x16"}, "--size, --steps say what to generate"),
        ({"worlds": Path("nowhere")}, "is no folder"),
        ({"checkpoint": Path("c"), "min_confidence": 2.0}, "--min-confidence is 2.0"),
        ({"checkpoint": Path("c"), "show": -1}, "--show"),
        ({"checkpoint": Path("CHECKPOINT"), "size": "64"}, "HEIGHTxWIDTH"),
        ({"checkpoint": Path("CHECKPOINT"), "frames": 6}, "use 5 or 9"),
        ({"checkpoint": Path("CHECKPOINT"), "clips": 0}, "at least one"),
        ({"checkpoint": Path("CHECKPOINT"), "frames": 9}, "shorter than clip.frames = 9"),
        ({"checkpoint": Path("CHECKPOINT"), "held_out": 1.0}, "between 0 and 1"),
        ({"checkpoint": Path("CHECKPOINT"), "lpips_weights": Path("none")}, "does not exist"),
        ({"checkpoint": Path("CHECKPOINT"), "against": (Path("none"),)}, r"none holds no evaluation\.json"),
    ],
)
def test_options_that_cannot_be_used(checkpoint, dataset, tmp_path, options: dict[str, Any], message: str):
    if options.get("checkpoint") == Path("CHECKPOINT"):
        options = {**options, "checkpoint": checkpoint}
    with pytest.raises(ConfigError, match=message):
        quiet(EvaluateOptions(data=dataset, out=tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_lpips_of_pictures_below_its_network_is_refused(checkpoint, dataset, tmp_path, monkeypatch):
    class Network(Lpips):
        def __init__(self, weights: Path) -> None:
            assert weights.exists()

    monkeypatch.setattr("fw_train.evaluate.run.Lpips", Network)
    options = EvaluateOptions(checkpoint=checkpoint, data=dataset, out=tmp_path / "out", lpips_weights=checkpoint)
    with pytest.raises(ConfigError, match="at least 35 pixels a side, the worlds are 32x48"):
        quiet(options)
    with pytest.raises(ConfigError, match="no motion to measure"):
        quiet(replace(options, lpips_weights=None, frames=1))
    assert not (tmp_path / "out").exists()


def blurred(world: World) -> World:
    return replace(world, video=np.roll(world.video, 2, axis=2), depth=world.depth * np.float32(1.2))


def test_a_comparison_shows_known_differences(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, change in (("exact", lambda w: w), ("shifted", blurred)):
        worlds = perfect_worlds(dataset, tmp_path / name / "worlds", 6, change)
        quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / name, show=0))
    capsys.readouterr()
    compare_runs(CompareOptions(runs=(tmp_path / "exact", tmp_path / "shifted"), out=tmp_path / "both"))
    rows = json.loads((tmp_path / "both" / "comparison.json").read_text())["others"][0]
    by_name = {row["measure"]: row for row in rows}
    first, other = (read_evaluation(tmp_path / name) for name in ("exact", "shifted"))
    expected = [b.scores["video/psnr"] - a.scores["video/psnr"] for a, b in zip(first.clips, other.clips, strict=True)]  # type: ignore[operator]
    assert by_name["video/psnr"]["difference"]["mean"] == pytest.approx(np.mean(expected))
    low, high = by_name["video/psnr"]["difference"]["mean_interval"]
    assert min(expected) <= low <= np.mean(expected) <= high < 0
    assert by_name["depth/abs_rel"]["difference"]["mean"] == pytest.approx(0, abs=1e-6)
    said = capsys.readouterr().out
    assert "shifted against exact" in said
    page = (tmp_path / "both" / "comparison.html").read_text()
    assert "worse" in page
    assert "no difference shown" in page


def test_what_was_measured_differently_is_not_compared(
    dataset: Path, generated: Path, checkpoint: Path, tmp_path: Path
):
    worlds = perfect_worlds(dataset, tmp_path / "worlds", 3)
    quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "a", show=0))
    quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "b", min_confidence=0.5, show=0))
    with pytest.raises(ConfigError, match=r"min_confidence: 0\.3 and 0\.5"):
        compare_runs(CompareOptions(runs=(tmp_path / "a", tmp_path / "b")))
    left_out = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    left_out["measured"]["recover"] = "sfm"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "evaluation.json").write_text(json.dumps(left_out))
    compare_runs(CompareOptions(runs=(tmp_path / "a", tmp_path / "d")))
    with pytest.raises(ConfigError, match="different clips: 3 and 3"):
        compare_runs(CompareOptions(runs=(tmp_path / "a", generated)))
    with pytest.raises(ConfigError, match="two or more"):
        compare_runs(CompareOptions(runs=(tmp_path / "a",)))
    anew = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    anew["clips"][0]["content"] = "other"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "evaluation.json").write_text(json.dumps(anew))
    with pytest.raises(ConfigError, match="1 clips were annotated anew"):
        compare_runs(CompareOptions(runs=(tmp_path / "a", tmp_path / "c")))
    refused = EvaluateOptions(checkpoint=checkpoint, data=dataset, out=tmp_path / "new", split="all", clips=2)
    with pytest.raises(ConfigError, match="different clips"):
        quiet(replace(refused, against=(generated,)))
    assert not (tmp_path / "new").exists()


def test_the_commands_print_tables(checkpoint: Path, dataset: Path, generated: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = ["evaluate", str(checkpoint), "--data", str(dataset), "--out", str(generated)]
    with pytest.raises(SystemExit) as done:
        main([*words, "--split", "all", "--clips", "3", "--against", str(generated)])
    assert done.value.code == 0
    said = capsys.readouterr().out
    for text in (
        "PSNR (dB)",
        "Intervals over 3 source videos are narrower",
        "95 % interval",
        "first against first",
        "no difference shown",
        "index.html",
    ):
        assert text in said
    with pytest.raises(SystemExit) as refused:
        main(["compare", str(generated), str(dataset)])
    assert refused.value.code == 2
    assert "holds no evaluation.json" in capsys.readouterr().err


def test_the_path_picture_is_drawn_from_above():
    right = np.stack([np.linspace(0, 1, 3), np.zeros(3), np.zeros(3)], axis=-1)
    ahead = np.stack([np.zeros(3), np.zeros(3), np.linspace(0, 1, 3)], axis=-1)
    root = ElementTree.fromstring(svg_paths({"one & two": right, "ahead": ahead}, title="cameras"))
    lines = [line.get("points", "") for line in root.iter("{http://www.w3.org/2000/svg}polyline")]
    (x0, y0), *_, (x1, y1) = [tuple(map(float, at.split(","))) for at in lines[0].split()]
    assert x1 > x0
    assert y1 == y0
    (x0, y0), *_, (x1, y1) = [tuple(map(float, at.split(","))) for at in lines[1].split()]
    assert x1 == x0
    assert y1 < y0
