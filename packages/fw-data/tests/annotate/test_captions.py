"""Captions from text files and tables, and the line of a run without any."""

import json

import pytest

from fw_data import ClipDataset
from fw_data.annotate.captions import read_captions
from fw_data.cli import main

ROWS = [("a.mp4", "a wall, moving"), ("sub/b.mp4", "second\nwall")]


def write(folder, name: str, content: object) -> None:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", '\ufeffvideo,prompt\r\na.mp4,"a wall, moving"\r\nsub\\b.mp4,"second\nwall"\r\n'),
        ("metadata.csv", 'Path,Text,fps\n/data/raw/a.mp4,"a wall, moving",24\nsub/b,second wall,24\n'),
        ("metadata.jsonl", "\n".join(json.dumps({"file_name": n, "text": t}) for n, t in ROWS) + "\n\n"),
        ("metadata.json", [{"file_path": n, "text": t, "type": "video"} for n, t in ROWS]),
        ("metadata.json", {n: {"caption": [t, "another"]} for n, t in ROWS}),
        ("metadata.json", dict(ROWS)),
    ],
)
def test_tables_of_every_kind(tmp_path, name, content):
    write(tmp_path, name, content)
    found = read_captions(tmp_path, ["a.mp4", "sub/b.mp4", "c.mp4"])
    assert found.texts == {"a.mp4": "a wall, moving", "sub/b.mp4": "second wall"}
    assert found.messages == []


def test_text_files_come_first_then_the_nearest_table(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "frames").mkdir()
    (tmp_path / "a.txt").write_text("from the text", encoding="utf-16")  # Notepad's "Unicode"
    write(tmp_path, "frames.txt", "of a folder")
    write(tmp_path, "metadata.jsonl", json.dumps({"file_name": "a.mp4", "text": "from the lines"}))
    write(tmp_path, "metadata.csv", "video,prompt\na.mp4,from the table\nsub/b.mp4,far\ngone.mp4,x\n")
    write(tmp_path / "sub", "metadata.csv", "video,prompt\nb.mp4,near\n")
    found = read_captions(tmp_path, ["a.mp4", "frames", "sub/b.mp4"])
    assert found.texts == {"a.mp4": "from the text", "frames": "of a folder", "sub/b.mp4": "near"}
    text = "\n".join(found.messages)
    assert "2 videos with several captions, first a.mp4" in text
    assert "metadata.csv: 1 of 3 rows name no video here; first gone.mp4" in text


@pytest.mark.parametrize("content", ['{"fps": 24, "x": [1]}', "no JSON", '[{"caption": "x"}]', "[1, 2]"])
def test_other_files_of_the_name_are_reported(tmp_path, content):
    write(tmp_path, "metadata.json", content)
    found = read_captions(tmp_path, ["a.mp4"])
    assert found.texts == {}
    assert len(found.messages) == 1
    assert "metadata.json" in found.messages[0]


def test_a_run_uses_them_and_says_once_if_there_are_none(raw_with_truth, tmp_path, capsys):
    raw, truth = raw_with_truth
    (raw / "a.txt").unlink()
    order = [
        "annotate",
        str(raw),
        str(tmp_path / "out"),
        "--geometry",
        "oracle",
        "--truth",
        str(truth),
        "--workers",
        "0",
    ]
    assert main(order) == 0
    assert "".join(capsys.readouterr().out.split()).count("nocliphasacaption") == 1
    write(raw, "metadata.csv", "video,prompt\na.mp4,a wall\nsub/b.mp4,second wall\n")
    assert main([*order[:2], str(tmp_path / "again"), *order[3:]]) == 0
    assert "no clip has a caption" not in capsys.readouterr().out
    assert sorted(record.caption for record in ClipDataset(tmp_path / "again").records) == ["a wall", "second wall"]
