"""The page of `fw-data inspect`: its contents are those of the dataset, and it works offline."""

import base64
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from fw_data import ClipDataset
from fw_data.cli import main
from fw_data.inspect.point_view import POINTS, point_view, some_points


@pytest.fixture(scope="module")
def page(shared_dataset, tmp_path_factory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("page") / "data <set>"
    shutil.copytree(shared_dataset[0], out)
    refusals = [
        {"status": "refused", "source": "</script><b>x.mp4", "stage": "probe", "code": "unreadable", "reason": "<i>no"},
        {"status": "filtered", "source": "y.mp4", "start_frame": 5, "num_frames": 4, "clip_id": "c", "stage": "filters"}
        | {"code": "too-dark", "reason": "dark", "scores": {"motion_px": 1.5}},
    ]
    (out / "refusals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in refusals))
    assert main(["inspect", str(out)]) == 0
    return (out / "inspect" / "index.html").read_text(), out


def _data(text: str) -> dict:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', text, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_every_clip_and_everything_left_out_is_a_row(page):
    text, out = page
    rows = {row["source"]: row for row in _data(text)["rows"]}
    record = ClipDataset(out).records[0]
    assert len(rows) == 4
    assert rows["a.mp4"]["grade"] == record.grade
    assert rows["a.mp4"]["tags"] == record.motion_tags
    assert rows["a.mp4"]["span"] == "0:13"
    assert rows["y.mp4"] | {"why": ""} == rows["y.mp4"] | {
        "status": "filtered",
        "span": "5:9",
        "motion_px": 1.5,
        "why": "",
    }
    assert rows["</script><b>x.mp4"]["why"] == "unreadable: <i>no"


def test_nothing_that_a_file_says_becomes_markup_and_nothing_is_fetched(page):
    text, _ = page
    assert "</script><b>" not in text
    assert "<i>no" not in text
    assert "data &lt;set&gt;" in text
    assert not re.search(r"https?:|//cdn|@import|<link|<iframe|src=[\"'](?!data:)", text)
    assert "$" not in re.sub(r"\$\{|`[^`]*`", "", text.split('<script id="data"')[0])  # no placeholder is left


def test_points_of_the_view_lie_where_depth_and_cameras_put_them(page):
    text, out = page
    dataset = ClipDataset(out)
    cloud = _data(text)["clouds"][dataset.records[0].id]
    low, high = np.array(cloud["low"]), np.array(cloud["high"])
    steps = np.frombuffer(base64.b64decode(cloud["points"]), "<u2").reshape(-1, 3)
    points = low + steps / 65535 * (high - low)
    assert 1000 < len(points) <= POINTS
    assert len(base64.b64decode(cloud["colors"])) == points.size
    # the scene is a plane: every point must be on it, up to the step of the quantization and the storage of depth
    np.testing.assert_allclose(points @ np.array([0.3, 0.2, -1.0]), -4.0, atol=0.02)
    poses = np.frombuffer(base64.b64decode(cloud["poses"]), "<f4").reshape(-1, 3, 4)
    np.testing.assert_allclose(poses, dataset.load(0).pose_c2w[:, :3], atol=1e-6)
    assert cloud["view"] == pytest.approx([1 / 0.9, 48 / 64 / 0.9])


def test_a_clip_without_confident_depth_still_has_a_view(page):
    import dataclasses

    clip = ClipDataset(page[1]).load(0)
    empty = dataclasses.replace(clip, confidence=np.zeros_like(clip.confidence))
    assert len(some_points(empty, 100)[0]) == 0
    assert point_view(empty)["points"] == ""
    assert json.dumps(point_view(empty))


def test_the_same_dataset_gives_the_same_page(page, tmp_path):
    text, out = page
    assert main(["inspect", str(out), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "index.html").read_text() == text
