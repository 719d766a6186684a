"""The commands as a person runs them: exit codes, messages, pages, and a run that is killed."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fw_data import ClipDataset
from fw_data.cli import main
from fw_data.exporters import FORMATS as EXPORT_FORMATS
from fw_data.importers import FORMATS as IMPORT_FORMATS


def test_annotate_then_validate_inspect_stats(raw_with_truth, tmp_path, capsys):
    raw, truth = raw_with_truth
    (raw / "broken.mp4").write_text("no")
    out = tmp_path / "out"
    order = ["annotate", str(raw), str(out), "--geometry", "oracle", "--truth", str(truth), "--workers", "0"]
    assert main(order) == 0
    output = capsys.readouterr().out
    assert "refused: broken.mp4" in output
    assert "26 frames; grades: 2 A" in output
    assert main(["validate", str(out)]) == 0
    assert main(["inspect", str(out), "--clips", "1"]) == 0
    page = (out / "inspect" / "index.html").read_text()
    record = ClipDataset(out).records[0]
    assert record.id in page
    assert "broken.mp4" in page
    assert "data:image/png;base64," in page
    assert "http" not in page
    with Image.open(out / "inspect" / f"{record.id}.png") as sheet:
        colors = len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0))
        assert sheet.width > 1000
    assert colors > 500
    assert len(list((out / "inspect").glob("*.png"))) == 1
    capsys.readouterr()
    assert main(["stats", str(out), "--json"]) == 0
    assert '"frames": 26' in capsys.readouterr().out


def test_nothing_to_annotate_is_exit_1(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    order = ["annotate", str(tmp_path / "raw"), str(tmp_path / "out"), "--geometry", "oracle", "--truth", str(tmp_path)]
    assert main(order) == 1
    assert "no videos in" in capsys.readouterr().out
    (tmp_path / "raw" / "text.mp4").write_text("no")
    assert main([*order, "--workers", "0"]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["annotate", "RAW/none", "OUT", "--geometry", "oracle", "--truth", "RAW"], "none"),
        (["annotate", "RAW", "OUT", "--geometry", "oracle"], "--truth"),
        (["annotate", "RAW", "OUT", "--truth", "RAW"], "--geometry oracle"),
        (["annotate", "RAW", "OUT", "--geometry", "oracle", "--truth", "RAW", "--size", "9x9"], "multiples of 16"),
        (["annotate", "RAW", "OUT", "--geometry", "oracle", "--truth", "RAW", "--workers", "-1"], "--workers"),
        (["validate", "RAW"], "manifest.parquet"),
        (["inspect", "RAW"], "manifest.parquet"),
    ],
)
def test_wrong_use_is_exit_2_and_one_line(tmp_path, capsys, arguments, message):
    (tmp_path / "raw").mkdir()
    places = {"RAW": str(tmp_path / "raw"), "RAW/none": str(tmp_path / "none"), "OUT": str(tmp_path / "out")}
    assert main([str(places.get(argument, argument)) for argument in arguments]) == 2
    output = capsys.readouterr().err
    assert output.startswith("fw-data: error: ")
    assert message in output
    assert "Traceback" not in output


@pytest.mark.parametrize(("command", "names"), [("export", EXPORT_FORMATS), ("import", ("auto", *IMPORT_FORMATS))])
def test_formats_are_those_of_the_registry(command, names, tmp_path, capsys):
    with suppress(SystemExit):
        main([command, "--help"])
    shown = "".join(re.sub(r"[│\s]", "", capsys.readouterr().out))
    assert f"{{{','.join(names)}}}" in shown
    with pytest.raises(SystemExit) as stopped:
        main([command, str(tmp_path), str(tmp_path / "out"), "--format", "obj"])
    assert stopped.value.code == 2
    assert "obj" in "".join(capsys.readouterr())


def test_encode_points_to_where_it_is(capsys):
    assert main(["encode", "DATASET"]) == 2
    assert "fw-train encode STAGE CONFIG" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["nonsense"], []])
def test_unknown_commands_are_exit_2(arguments, capsys):
    assert main(arguments) == 2
    assert "annotate" in "".join(capsys.readouterr())


def test_an_operating_system_error_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main(["schema", "--out", str(tmp_path / "file" / "schema.json")]) == 2
    output = capsys.readouterr().err
    assert output.startswith("fw-data: error: ")
    assert str(tmp_path / "file") in output
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["annotate"], ["annotate", "a", "b", "--no-such"]])
def test_what_cannot_be_parsed_is_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize("arguments", [["--help"], ["annotate", "--help"], ["inspect", "--help"]])
def test_help_loads_nothing_heavy(arguments):
    code = (
        "import sys; from fw_data.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'cv2', 'av', 'pyarrow') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "annotate" in output
    assert output.strip().endswith("[]")


@pytest.mark.slow
def test_kill_9_loses_nothing_that_was_finished(raw_with_truth, scene, make_video, run_annotate, tmp_path):
    raw, truth = raw_with_truth
    for number in range(8):
        content = scene(9, seed=20 + number)
        make_video(raw / f"k{number}.mp4", content["video"])
        np.savez(truth / f"k{number}.npz", **{name: content[name] for name in ("depth_m", "K", "pose_c2w")})
    out = tmp_path / "out"
    order = [sys.executable, "-m", "fw_data.cli", "annotate", str(raw), str(out)]
    order += ["--geometry", "oracle", "--truth", str(truth), "--workers", "1"]
    run = subprocess.Popen(order, stdout=subprocess.DEVNULL, start_new_session=True, env=dict(os.environ))
    try:
        while not (finished := list((out / ".work" / "clips").rglob("*.tar"))):
            assert run.poll() is None
            time.sleep(0.002)
    finally:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    kept = {path.stem: path.stat().st_mtime_ns for path in finished}
    summary = run_annotate(raw, out)
    assert summary.clips == 10
    assert summary.new_clips <= 10 - len(kept)
    run_annotate(raw, tmp_path / "straight")
    assert _content(out) == _content(tmp_path / "straight")


def _content(out: Path) -> dict[str, bytes]:
    names = ("manifest.parquet", "dataset.json", "refusals.jsonl", "shards/000000.tar")
    return {name: (out / name).read_bytes() for name in names}


def test_toy_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "fw_toy.cli", raising=False)
    monkeypatch.setitem(sys.modules, "fw_toy", None)
    assert main(["toy", "out"]) == 2
    assert "pip install 'fw-data[toy]'" in capsys.readouterr().err
