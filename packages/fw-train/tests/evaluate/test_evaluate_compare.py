"""Evaluations side by side: known differences are found, unlike ones are refused."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fw_data.dataset.reader import ClipDataset
from fw_model.pipeline.result import World
from fw_train.config.schema import ConfigError
from fw_train.evaluate.evaluation import read_evaluation
from fw_train.evaluate.options import ComparisonOptions, EvaluateOptions
from fw_train.evaluate.run import compare_runs, evaluate


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


def blurred(world: World) -> World:
    return replace(world, video=np.roll(world.video, 2, axis=2), depth=world.depth * np.float32(1.2))


def test_a_comparison_shows_known_differences(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], perfect_worlds
):
    for name, change in (("exact", lambda w: w), ("shifted", blurred)):
        worlds = perfect_worlds(dataset, tmp_path / name / "worlds", 6, change)
        quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / name, show=0))
    capsys.readouterr()
    compare_runs(ComparisonOptions(runs=(tmp_path / "exact", tmp_path / "shifted"), out=tmp_path / "both"))
    rows = json.loads((tmp_path / "both" / "comparison.json").read_text())["others"][0]
    by_name = {row["measure"]: row for row in rows}
    first, other = (read_evaluation(tmp_path / name) for name in ("exact", "shifted"))
    expected = [b.scores["video/psnr"] - a.scores["video/psnr"] for a, b in zip(first.clips, other.clips, strict=True)]  # type: ignore[operator]
    assert by_name["video/psnr"]["difference"]["mean"] == pytest.approx(np.mean(expected))
    low, high = by_name["video/psnr"]["difference"]["mean_interval"]
    assert min(expected) <= low <= np.mean(expected) <= high < 0
    assert by_name["depth/abs_rel"]["difference"]["mean"] == pytest.approx(0, abs=1e-6)
    printed = capsys.readouterr().out
    assert "shifted against exact" in printed
    page = (tmp_path / "both" / "comparison.html").read_text()
    assert "worse" in page
    assert "no difference shown" in page


def test_what_was_measured_differently_is_not_compared(dataset, checkpoint, perfect_worlds, tmp_path):
    worlds = perfect_worlds(dataset, tmp_path / "worlds", 3)
    quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "a", show=0))
    quiet(EvaluateOptions(worlds=worlds, data=dataset, out=tmp_path / "b", min_confidence=0.5, show=0))
    with pytest.raises(ConfigError, match=r"min_confidence: 0\.3 and 0\.5"):
        compare_runs(ComparisonOptions(runs=(tmp_path / "a", tmp_path / "b")))
    left_out = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    left_out["measured"]["recover"] = "sfm"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "evaluation.json").write_text(json.dumps(left_out))
    compare_runs(ComparisonOptions(runs=(tmp_path / "a", tmp_path / "d")))
    others = perfect_worlds(dataset, tmp_path / "others", 6)
    for record in ClipDataset(dataset).records[:3]:
        shutil.rmtree(others / record.id)
    quiet(EvaluateOptions(worlds=others, data=dataset, out=tmp_path / "e", show=0))
    with pytest.raises(ConfigError, match="3 and 3"):
        compare_runs(ComparisonOptions(runs=(tmp_path / "a", tmp_path / "e")))
    with pytest.raises(ConfigError, match="two"):
        compare_runs(ComparisonOptions(runs=(tmp_path / "a",)))
    changed = json.loads((tmp_path / "a" / "evaluation.json").read_text())
    changed["clips"][0]["content"] = "other"
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "evaluation.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match="1 clips"):
        compare_runs(ComparisonOptions(runs=(tmp_path / "a", tmp_path / "c")))
    refused = EvaluateOptions(checkpoint=checkpoint, data=dataset, out=tmp_path / "new", split="all", clips=2)
    with pytest.raises(ConfigError, match="clips"):
        quiet(replace(refused, against=(tmp_path / "a",)))
    assert not (tmp_path / "new").exists()
