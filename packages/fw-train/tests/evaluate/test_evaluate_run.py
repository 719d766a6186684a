"""Evaluations from end to end with a mini model: generated, resumed, held out, measured from a folder, shown."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from fw_data.dataset.reader import ClipDataset
from fw_model.config import WorldConfig
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World
from fw_train.cli import main
from fw_train.config.schema import ClipConfig, ConfigError, TrainConfig
from fw_train.data.split import split_clips
from fw_train.evaluate.evaluation import read_evaluation
from fw_train.evaluate.options import EvaluateOptions
from fw_train.evaluate.page import svg_paths
from fw_train.evaluate.run import evaluate


@pytest.fixture(autouse=True, scope="module")
def few_points() -> Iterator[None]:
    """Clouds of worlds that an untrained model makes lie far from the truth, where the nearest point takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fw_train.metrics.measure._MOST_POINTS", 300)
        yield


def quiet(options: EvaluateOptions) -> list[str]:
    lines: list[str] = []
    evaluate(options, lines.append)
    return lines


MINI = ClipConfig(frames=5, height=32, width=48)


@pytest.fixture(scope="module")
def generated(checkpoint: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation of three clips."""
    out = tmp_path_factory.mktemp("evaluation") / "first"
    quiet(EvaluateOptions(checkpoint=checkpoint, data=dataset, out=out, split="all", clips=3))
    return out


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
    assert "worlds: 2 exist, 1 to generate" in quiet(options)
    assert asked == [ClipDataset(dataset).record(lost).caption]
    first, again = read_evaluation(generated), read_evaluation(out)
    assert [clip.scores for clip in first.clips] == [clip.scores for clip in again.clips]
    quiet(replace(options, clips=4))
    assert len(asked) == 2
    assert [clip.id for clip in read_evaluation(out).clips][:3] == [clip.id for clip in first.clips]
    for changed, message in (({"steps": 2}, r"steps.*1.*2"), ({"seed": 5}, r"seed.*0.*5")):
        with pytest.raises(ConfigError, match=message):
            quiet(replace(options, **changed))
    assert len(asked) == 2


def test_an_interrupted_run_leaves_whole_worlds_and_resumes(checkpoint, dataset, tmp_path, monkeypatch, capsys):
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
        assert main(words) == 130
    assert "fw-train evaluate: " in capsys.readouterr().err
    assert len(list((tmp_path / "worlds").iterdir())) == 1
    assert main(words) == 0
    assert "worlds: 1 exist, 1 to generate" in capsys.readouterr().out


def test_other_weights_are_other_worlds(checkpoint: Path, dataset: Path, generated: Path, mini: Path, tmp_path: Path):
    other = tmp_path / "export"
    shutil.copytree(checkpoint, other)
    FantasyWorld(WorldConfig.from_json(mini.read_text()), seed=1).save_pretrained(other)
    with pytest.raises(ConfigError, match="weights"):
        quiet(EvaluateOptions(checkpoint=other, data=dataset, out=generated, split="all", clips=3))


def test_worlds_that_exist_are_measured_as_they_are(dataset: Path, tmp_path: Path, perfect_worlds):
    worlds = perfect_worlds(dataset, tmp_path / "worlds")
    quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "out"))
    found = read_evaluation(tmp_path / "out").summary
    assert found["video/psnr"].mean == 100
    assert found["video/ssim"].mean == 1
    for name in ("depth/abs_rel", "pose/ate", "points/chamfer", "follow/rotation"):
        assert found[name].mean < 1e-5, name
    for name in ("consistency/photometric_ratio", "consistency/depth_ratio"):
        assert found[name].mean < 0.3, name


def test_the_unit_a_world_was_generated_in_does_not_count(dataset: Path, tmp_path: Path, perfect_worlds):
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
    with pytest.raises(ConfigError, match=r"0\.4"):
        quiet(EvaluateOptions(checkpoint=run, data=dataset, out=tmp_path / "other", held_out=0.2))


def test_the_commands_print_tables(checkpoint: Path, dataset: Path, generated: Path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    words = ["evaluate", str(checkpoint), "--data", str(dataset), "--out", str(generated)]
    assert main([*words, "--split", "all", "--clips", "3", "--against", str(generated)]) == 0
    printed = capsys.readouterr().out
    for text in (
        "PSNR (dB)",
        "Intervals over 3 source videos are narrower",
        "95 % interval",
        "first against first",
        "no difference shown",
        "index.html",
    ):
        assert text in printed
    assert main(["compare", str(generated), str(dataset)]) == 2
    assert "evaluation.json" in capsys.readouterr().err


def test_the_camera_paths_are_drawn_from_above():
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
