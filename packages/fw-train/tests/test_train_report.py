"""Curves for a report: read from a log, drawn as a well-formed SVG that needs nothing else."""

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fw_train.engine.run_log import RunLog, read_log
from fw_train.report import Series, loss_curves, svg_chart


def write(run: Path, rows: list[dict[str, object]]) -> Path:
    run.mkdir(exist_ok=True)
    (run / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run


def test_curves_are_the_rows_of_the_log(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"step": 0, "event": "started"},
        {"step": 0, "split": "val", "loss": 4.0, "loss@0.5": 5.0},
        {"step": 2, "split": "train", "loss": 3.0, "loss/flow": 2.0, "gradient_norm": 9.0},
        {"step": 4, "split": "train", "loss": 2.0, "loss/flow": 1.0, "loss/depth/frame": 1.0},
        {"step": 4, "split": "val", "loss": 1.0, "loss@0.5": 1.5},
    ]
    run = write(tmp_path / "run", rows)
    curves = {series.name: series for series in loss_curves(run)}
    assert set(curves) == {"val loss", "val loss@0.5", "train loss", "train loss/flow"}
    assert curves["train loss"] == Series(name="train loss", steps=(2, 4), values=(3.0, 2.0))
    assert curves["val loss"].drop == 0.75
    assert {series.name for series in loss_curves(run, detail=True)} == {*curves, "train loss/depth/frame"}


def test_a_folder_without_a_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"log\.jsonl|measure"):
        loss_curves(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1}\nnot json\n')
    with pytest.raises(ValueError, match=r"row 2.*JSON"):
        loss_curves(tmp_path)


def test_the_chart_is_well_formed_and_stays_inside_its_box() -> None:
    series = [
        Series(name="val <loss>", steps=(0, 50, 100), values=(2.4, float("nan"), 1.1)),
        Series(name="train loss", steps=(10, 100), values=(2.0, 0.9)),
        Series(name="never", steps=(5,), values=(float("inf"),)),
    ]
    root = ElementTree.fromstring(svg_chart(series, title="base & more", width=400, height=200))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [2, 2]
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= 400
            assert 0 <= y <= 200
    first, last = (float(p.split(",")[1]) for p in lines[0].attrib["points"].split())
    assert first < last  # SVG y grows downward, and the loss falls
    texts = [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "base & more" in texts
    assert "val <loss> 2.4 → 1.1" in texts


@pytest.mark.parametrize("values", [(), (1.0,), (3.0, 3.0), (-1e-9, 1e9)])
def test_odd_series_still_give_a_chart(values: tuple[float, ...]) -> None:
    series = Series(name="x", steps=tuple(range(len(values))), values=values)
    ElementTree.fromstring(svg_chart([series], title="odd"))


def test_a_resumed_log_drops_what_came_after_its_checkpoint_and_a_torn_last_row(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"step": step, "split": "train", "loss": 1.0} for step in (1, 2, 3)]
    write(tmp_path, rows)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 4, "spl')
    assert [row["step"] for row in read_log(tmp_path)] == [1, 2, 3]
    with RunLog(tmp_path, steps=5, step=2, quiet=True) as run_log:
        run_log.metrics(3, "train", {"loss": 0.5})
    assert [(row["step"], row["loss"]) for row in read_log(tmp_path)] == [(1, 1.0), (2, 1.0), (3, 0.5)]


def test_a_run_that_begins_anew_begins_its_log_anew(tmp_path: Path) -> None:
    write(tmp_path, [{"step": 0, "event": "started"}, {"step": 0, "split": "val", "loss": 1.0}])
    with RunLog(tmp_path, steps=5, quiet=True) as run_log:
        run_log.event(0, "started")
    assert read_log(tmp_path) == [{"step": 0, "event": "started"}]


def test_progress_is_plain_lines_off_a_terminal_and_short_terms_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunLog(tmp_path, steps=5) as run_log:
        run_log.metrics(1, "train", {"loss": 0.123456, "loss/depth": 2.0, "loss/depth/frame": 3.0})
        run_log.message("hello")
    assert capsys.readouterr().out == "step 1/5 train loss 0.1235 loss/depth 2\nhello\n"
    assert read_log(tmp_path)[0]["loss/depth/frame"] == 3.0


def test_a_terminal_gets_a_progress_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", terminal)
    with RunLog(tmp_path, steps=5) as run_log:
        run_log.progress(3)
        run_log.metrics(3, "train", {"loss": 0.5})
        run_log.metrics(3, "val", {"loss": 0.25})
    assert "3/5" in terminal.getvalue()
    assert "val loss 0.25" in terminal.getvalue()
