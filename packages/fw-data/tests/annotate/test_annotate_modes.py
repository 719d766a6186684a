"""Runs that stop early or only measure, frames chosen by rate, copies of clips, quarantine, and the account."""

import json
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from fw_data import ClipDataset
from fw_data.annotate.pipeline import RunMode
from fw_data.annotators.oracle.spec import OracleSpec
from fw_data.cli import main
from fw_data.dataset.schema import DatasetCard, Refusal
from fw_data.engine import Done
from fw_data.engine.local import LocalEngine


def _refusals(out: Path) -> list[Refusal]:
    return [Refusal.model_validate_json(line) for line in (out / "refusals.jsonl").read_text().splitlines()]


def _scores(out: Path) -> list[dict]:
    return pq.read_table(out / "scores.parquet").to_pylist()


def _add(root: Path, name: str, content: dict[str, np.ndarray], make_video, **options) -> None:
    make_video(root / "raw" / f"{name}.mp4", content["video"], **options)
    (root / "truth").mkdir(exist_ok=True)
    np.savez(root / "truth" / f"{name}.npz", depth_m=content["depth_m"], K=content["K"], pose_c2w=content["pose_c2w"])


def test_a_lower_rate_keeps_frames_with_their_own_truth(tmp_path, scene, make_video, run_annotate):
    content = scene(24)
    _add(tmp_path, "a", content, make_video)
    run_annotate(tmp_path / "raw", tmp_path / "out", config={"fps": 8.0, "max_frames": 5, "min_frames": 3})
    dataset = ClipDataset(tmp_path / "out")
    assert [(r.start_frame, r.num_frames, r.source_frames) for r in dataset.records] == [(0, 5, 13), (15, 3, 7)]
    assert [r.fps for r in dataset.records] == pytest.approx([8.0, 8.0])
    for index, expected in enumerate(([0, 3, 6, 9, 12], [15, 18, 21])):
        clip, cameras = dataset.load(index), dataset.cameras(index)
        np.testing.assert_array_equal(cameras.frame_index, expected)
        np.testing.assert_allclose(cameras.time_s, np.array(expected) / 24, atol=1e-6)
        np.testing.assert_allclose(clip.depth_m, content["depth_m"][expected], rtol=2e-3)
        start = np.linalg.inv(content["pose_c2w"][expected[0]])
        np.testing.assert_allclose(clip.pose_c2w, start @ content["pose_c2w"][expected], atol=1e-9)
        image = np.abs(clip.video.astype(float) - content["video"][expected]).mean()
        assert image < 0.7 * np.abs(clip.video[:-1].astype(float) - content["video"][expected[1:]]).mean()


def test_uneven_time_stamps_are_chosen_by_time(tmp_path, scene, make_video, run_annotate):
    stamps = [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 24, 25, 30]
    _add(tmp_path, "a", scene(13), make_video, fps=24, pts=stamps)
    run_annotate(tmp_path / "raw", tmp_path / "out", config={"fps": 4.0})
    cameras = ClipDataset(tmp_path / "out").cameras(0)
    np.testing.assert_array_equal(cameras.frame_index, [0, 3, 6, 9, 10, 12])
    np.testing.assert_allclose(cameras.time_s, np.arange(6) / 4, atol=1e-6)


def test_a_fade_is_listed_and_its_frames_are_in_no_clip(tmp_path, scene, make_video, run_annotate):
    moving = scene(60, seed=3)["video"]
    level = np.ones(60)
    level[20:34], level[34:38] = np.linspace(1, 0, 14), 0
    faded = (moving * level[:, None, None, None]).round().astype(np.uint8)
    _add(tmp_path, "a", scene(60, seed=3) | {"video": faded}, make_video)
    run_annotate(tmp_path / "raw", tmp_path / "out")
    (found,) = [refusal for refusal in _refusals(tmp_path / "out") if refusal.code == "transition"]
    assert found.start_frame == pytest.approx(20, abs=4)
    assert (found.start_frame or 0) + (found.num_frames or 0) == pytest.approx(38, abs=2)
    kept = [set(ClipDataset(tmp_path / "out").cameras(r.id).frame_index) for r in ClipDataset(tmp_path / "out").records]
    assert len(kept) == 2
    assert not set().union(*kept) & set(range(24, 38))


def test_stop_after_survey_and_filters_then_go_on(raw_with_truth, scene, make_video, run_annotate, tmp_path):
    raw, _ = raw_with_truth
    make_video(raw / "dark.mp4", scene(13, seed=9)["video"] // 16)
    out = tmp_path / "out"
    summary = run_annotate(raw, out, mode=RunMode(stop_after="scan"))
    assert (summary.planned, summary.clips, summary.measured) == (3, 0, 0)
    assert "clips" not in json.loads((out / "run.json").read_text())["wall_s"]
    summary = run_annotate(raw, out, mode=RunMode(stop_after="filters"))
    assert (summary.clips, summary.measured, summary.count("filtered")) == (0, 2, 1)
    assert {(row["outcome"], row["code"]) for row in _scores(out)} == {("measured", ""), ("filtered", "too-dark")}
    assert all(row["sharpness"] > 0 for row in _scores(out))
    again = run_annotate(raw, out, mode=RunMode(stop_after="filters"))
    assert "filters" not in again.seconds  # nothing is measured twice
    summary = run_annotate(raw, out)
    assert (summary.clips, summary.measured) == (2, 0)
    assert {(row["outcome"], row["grade"]) for row in _scores(out)} == {("kept", "A"), ("filtered", None)}
    run_annotate(raw, tmp_path / "straight")
    for name in ("manifest.parquet", "refusals.jsonl", "scores.parquet", "shards/000000.tar"):
        assert (out / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_score_only_turns_nothing_away(raw_with_truth, scene, make_video, tmp_path, capsys):
    raw, truth = raw_with_truth
    make_video(raw / "dark.mp4", scene(13, seed=9)["video"] // 16)
    out = tmp_path / "out"
    order = ["annotate", str(raw), str(out), "--geometry", "oracle", "--truth", str(truth), "--workers", "0"]
    assert main([*order, "--score-only"]) == 0
    assert "scores without geometry" in capsys.readouterr().out
    assert {row["source"]: (row["outcome"], row["code"]) for row in _scores(out)} == {
        "a.mp4": ("measured", ""),
        "sub/b.mp4": ("measured", ""),
        "dark.mp4": ("measured", "too-dark"),
    }
    assert not _refusals(out)
    assert main([*order, "--score-only", "--stop-after", "scan"]) == 2
    assert main(order) == 0
    assert [(r.source, r.code) for r in _refusals(out)] == [("dark.mp4", "too-dark")]


def _with_copies(raw: Path, scene, make_video) -> None:
    for number in range(3):
        video = scene(9, 96, 128, seed=number)["video"]
        make_video(raw / f"{number}.mp4", video)
        smaller = np.stack([cv2.resize(frame, (96, 72), interpolation=cv2.INTER_AREA) for frame in video])
        make_video(raw / f"copy_of_{number}.mp4", smaller)


def test_near_duplicates_do_not_depend_on_the_order_of_work(tmp_path, scene, make_video):
    from fw_data.annotate.config import AnnotateConfig
    from fw_data.annotate.pipeline import annotate
    from fw_data.annotate.progress import PlainReporter

    _with_copies(tmp_path / "raw", scene, make_video)

    class Backwards(LocalEngine):
        def run(self, task, jobs, on_progress):
            return super().run(task, list(jobs)[::-1], on_progress)

    outs = []
    for name, engine in (("one", LocalEngine(workers=0)), ("back", Backwards(workers=0))):
        config, spec = AnnotateConfig(), OracleSpec(truth=tmp_path)
        mode = RunMode(stop_after="filters")
        annotate(
            *(tmp_path / "raw", tmp_path / name),
            config=config,
            spec=spec,
            engine=engine,
            reporter=PlainReporter(),
            mode=mode,
        )
        outs.append((tmp_path / name / "refusals.jsonl").read_bytes())
    assert outs[0] == outs[1]
    found = {refusal.source: refusal for refusal in _refusals(tmp_path / "one")}
    assert set(found) == {f"copy_of_{number}.mp4" for number in range(3)}
    assert all(refusal.code == "near-duplicate" for refusal in found.values())
    assert "looks like 1.mp4 [0:9]" in found["copy_of_1.mp4"].reason


def test_a_copy_that_comes_later_gives_way_to_the_clip_in_the_dataset(tmp_path, scene, make_video, run_annotate):
    content = scene(9, 96, 128)
    _add(tmp_path, "m", content, make_video)
    out = tmp_path / "out"
    assert run_annotate(tmp_path / "raw", out).clips == 1
    _add(tmp_path, "a", content, make_video, fps=25)
    summary = run_annotate(tmp_path / "raw", out)
    assert [record.source for record in ClipDataset(out).records] == ["m.mp4"]
    assert [(r.source, r.code) for r in summary.refusals] == [("a.mp4", "near-duplicate")]


def test_what_failed_twice_is_left_alone(raw_with_truth, run_annotate, tmp_path):
    class Dying(LocalEngine):
        def run(self, task, jobs, on_progress):
            dying = [job for job in jobs if type(task).__name__ == "AnnotateTask" and job.plan.source == "a.mp4"]
            yield from (Done(job=job, error="died") for job in dying)
            yield from super().run(task, [job for job in jobs if job not in dying], on_progress)

    raw, out = raw_with_truth[0], tmp_path / "out"
    retry = RunMode(retry_failed=True)
    for attempts in (1, 2):
        summary = run_annotate(raw, out, engine=Dying(workers=0), mode=retry)
        assert [refusal.attempts for refusal in summary.refusals] == [attempts]
    assert "--retry-quarantined" in summary.refusals[0].hint
    summary = run_annotate(raw, out, mode=retry)
    assert (summary.new_clips, summary.quarantined) == (0, 1)
    summary = run_annotate(raw, out, mode=RunMode(retry_quarantined=True))
    assert (summary.new_clips, summary.quarantined, summary.refusals) == (1, 0, [])


def test_the_card_explains_grades_and_the_run_says_where_the_time_went(raw_with_truth, run_annotate, tmp_path):
    (raw_with_truth[0] / "text.mp4").write_text("no")
    run_annotate(raw_with_truth[0], tmp_path / "out")
    card = DatasetCard.model_validate_json((tmp_path / "out" / "dataset.json").read_bytes())
    assert set(card.grade_meanings) == set("ABCD")
    assert card.grade_limits["A"]["coverage"] == (0.4, None)
    assert set(card.grade_limits["A"]) <= set(card.scores)
    assert card.codes == {"refused: unreadable": 1}
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(run["wall_s"]) == {"scan", "clips"}
    assert {"scan", "decode", "filters", "geometry", "grade", "masks", "store"} == set(run["work_s"])
    record = ClipDataset(tmp_path / "out").records[0]
    assert record.motion_tags
    assert not record.grade_reasons
    assert set(record.scores) <= set(card.scores)
