"""The whole pipeline on small videos: every kind of bad input, resuming, retrying, and the account of it all."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from fw_data import ClipDataset, DataError
from fw_data.annotate.pipeline import RunMode
from fw_data.annotators.base import AnnotationRefused, ClipGeometry
from fw_data.engine import Done
from fw_data.engine.local import LocalEngine


@dataclass(kw_only=True)
class FakeBackend:
    """A flat wall; refuses or fails on request."""

    behave: Callable[[int], object]
    name: str = "fake"
    version: str = "1"

    def annotate(self, frames, *, progress=None) -> ClipGeometry:
        assert progress is not None
        progress("wall", 0.5)
        self.behave(len(frames))
        count, height, width, _ = frames.shape
        K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], np.float64)
        return ClipGeometry(
            depth_m=np.full((count, height, width), 2, np.float32),
            confidence=np.ones((count, height, width), np.float32),
            K=K[None].repeat(count, 0),
            pose_c2w=np.eye(4)[None].repeat(count, 0),
            pose_confidence=np.ones(count, np.float32),
            scores={"fake": 1.0},
        )


@dataclass(frozen=True, kw_only=True)
class FakeSpec:
    behave: Callable[[int], object] = id
    name: str = "fake"
    version: str = "1"

    def settings(self) -> dict:
        return {}

    def score_meanings(self) -> dict[str, str]:
        return {"fake": "one"}

    def backend(self, plan, placement) -> FakeBackend:
        assert (placement.height % 16, plan.num_frames > 1) == (0, True)
        return FakeBackend(behave=self.behave)


class TurningBackend(FakeBackend):
    """Geometry of frames that are not the given ones."""

    def annotate(self, frames, *, progress=None) -> ClipGeometry:
        found = super().annotate(frames, progress=progress)
        return replace(found, frames=np.ascontiguousarray(frames[:, ::-1]), notes=["upside down"])


class TurningSpec(FakeSpec):
    def backend(self, plan, placement) -> FakeBackend:  # noqa: ARG002 - one for all clips
        return TurningBackend(behave=self.behave)


def _outcomes(out: Path) -> dict[str, tuple[str, str]]:
    lines = (out / "refusals.jsonl").read_text().splitlines()
    return {row["source"]: (row["status"], row["code"]) for row in map(json.loads, lines)}


def _shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}


def test_no_bad_file_stops_the_others(tmp_path, scene, make_video, run_annotate):
    raw, out = tmp_path / "raw", tmp_path / "out"
    good = scene(13)["video"]
    make_video(raw / "good.mp4", good)
    make_video(raw / "copy_first.mp4", good[:12])
    (raw / "copy_second.mp4").write_bytes((raw / "copy_first.mp4").read_bytes())
    (raw / "text.mp4").write_text("I am not a video")
    (raw / "empty.mp4").touch()
    make_video(raw / "two_frames.mp4", good[:2])
    make_video(raw / "black.mp4", np.zeros_like(good))
    make_video(raw / "still.mp4", good[:1].repeat(13, 0))
    make_video(raw / "portrait.mp4", scene(13, 96, 48, seed=1)["video"])
    make_video(raw / "turned.mp4", np.rot90(scene(13, seed=2)["video"], 1, (1, 2)), rotation=-90)
    make_video(raw / "odd.mp4", scene(13, 75, 101, seed=3)["video"])
    make_video(raw / "uneven.mp4", scene(8, seed=4)["video"], fps=25, pts=[0, 1, 2, 4, 5, 8, 10, 12])
    whole = make_video(tmp_path / "whole.mp4", scene(40, seed=5)["video"], faststart=True).read_bytes()
    (raw / "cut_off.mp4").write_bytes(whole[: int(len(whole) * 0.7)])
    (raw / "no_index.mp4").write_bytes(make_video(tmp_path / "late.mp4", good).read_bytes()[:-300])

    summary = run_annotate(raw, out, spec=FakeSpec())

    assert _outcomes(out) == {
        "copy_second.mp4": ("filtered", "duplicate"),
        "text.mp4": ("refused", "unreadable"),
        "empty.mp4": ("refused", "empty"),
        "no_index.mp4": ("refused", "no-index"),
        "two_frames.mp4": ("filtered", "too-short"),
        "black.mp4": ("filtered", "too-dark"),
        "still.mp4": ("filtered", "no-motion"),
    }
    records = {record.source: record for record in ClipDataset(out).records}
    sizes = {source: (record.height, record.width) for source, record in records.items()}
    assert sizes == {
        "copy_first.mp4": (48, 64),
        "cut_off.mp4": (48, 64),
        "good.mp4": (48, 64),
        "odd.mp4": (64, 96),
        "portrait.mp4": (96, 48),
        "turned.mp4": (48, 64),
        "uneven.mp4": (48, 64),
    }
    assert summary.videos == 14
    assert summary.clips == 7
    assert summary.count("filtered") + summary.count("refused") == 7
    assert 10 < records["cut_off.mp4"].num_frames < 40
    assert "cut off" in records["cut_off.mp4"].notes[0]
    assert not records["good.mp4"].notes
    assert records["uneven.mp4"].fps == pytest.approx(7 / (12 / 25), rel=1e-5)
    times = ClipDataset(out).cameras(records["uneven.mp4"].id).time_s
    np.testing.assert_allclose(times, np.array([0, 1, 2, 4, 5, 8, 10, 12]) / 25, atol=1e-9)


def test_the_frames_that_the_geometry_belongs_to_are_stored(tmp_path, scene, make_video, run_annotate):
    video = scene(13)["video"]
    make_video(tmp_path / "raw" / "clip.mp4", video)
    run_annotate(tmp_path / "raw", tmp_path / "out", spec=TurningSpec(), config={"trim_s": 0.0})
    dataset = ClipDataset(tmp_path / "out")
    assert dataset.records[0].notes == ["upside down"]
    stored = dataset.load(0).video.astype(float)
    assert np.abs(stored - video[:, ::-1]).mean() < 0.5 * np.abs(stored - video).mean()


def test_an_empty_folder_gives_nothing_and_writes_nothing(tmp_path, run_annotate):
    (tmp_path / "raw").mkdir()
    assert run_annotate(tmp_path / "raw", tmp_path / "out", spec=FakeSpec()).videos == 0
    assert not (tmp_path / "out").exists()


def test_long_shots_and_cuts_become_clips_with_their_place(tmp_path, scene, make_video, run_annotate):
    video = np.concatenate([scene(20, seed=0)["video"], 255 - scene(15, seed=9)["video"] // 3])
    make_video(tmp_path / "raw" / "film.mp4", video)
    run_annotate(tmp_path / "raw", tmp_path / "out", spec=FakeSpec(), config={"max_frames": 9, "trim_s": 0.0})
    dataset = ClipDataset(tmp_path / "out")
    assert [(r.start_frame, r.num_frames) for r in dataset.records] == [(0, 9), (9, 9), (20, 9), (29, 6)]
    assert _outcomes(tmp_path / "out") == {"film.mp4": ("filtered", "too-short")}
    for index, record in enumerate(dataset.records):
        clip = dataset.load(index)
        expected = video[record.start_frame : record.start_frame + record.num_frames]
        own = np.abs(clip.video.astype(float) - expected).mean()
        late = np.abs(clip.video[:-1].astype(float) - expected[1:]).mean()
        assert own < 0.7 * late
        assert clip.frame_index[0] == record.start_frame


def test_size_option_moves_depth_and_cameras_too(raw_with_truth, run_annotate, tmp_path):
    raw, _ = raw_with_truth
    run_annotate(raw, tmp_path / "out", config={"size": "32x32"})
    record = ClipDataset(tmp_path / "out").records[0]
    clip = ClipDataset(tmp_path / "out").load(0)
    assert clip.video.shape == (13, 32, 32, 3)
    assert clip.depth_m.shape == (13, 32, 32)
    np.testing.assert_allclose(clip.K[0, :2, 2], (16, 16), atol=0.5)
    np.testing.assert_allclose(clip.points_world @ np.array([0.3, 0.2, -1.0], np.float32), -4.0, atol=0.03)
    assert record.scores["reprojection_error"] < 0.01


def test_a_second_run_does_nothing_and_new_videos_are_added(raw_with_truth, run_annotate, tmp_path, scene, make_video):
    raw, truth = raw_with_truth
    out = tmp_path / "out"
    assert run_annotate(raw, out).new_clips == 2
    before = _shards(out)
    again = run_annotate(raw, out)
    assert (again.new_clips, again.clips) == (0, 2)
    assert _shards(out) == before
    content = scene(9, seed=7)
    make_video(raw / "aa.mp4", content["video"])
    np.savez(truth / "aa.npz", **{name: content[name] for name in ("depth_m", "K", "pose_c2w")})
    more = run_annotate(raw, out)
    assert (more.new_clips, more.clips) == (1, 3)
    assert {name: _shards(out)[name] for name in before} == before
    assert [record.source for record in ClipDataset(out).records] == ["a.mp4", "sub/b.mp4", "aa.mp4"]


@pytest.mark.parametrize(("stop_after", "shard_bytes"), [(0, 1), (1, 1), (1, 1 << 30), (2, 1 << 30)])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_shards(
    raw_with_truth, run_annotate, tmp_path, stop_after, shard_bytes
):
    raw, _ = raw_with_truth

    class Stopping(LocalEngine):
        """Ctrl-C after some results of the second pass."""

        def run(self, task, jobs, on_progress):
            for number, done in enumerate(super().run(task, jobs, on_progress)):
                if type(task).__name__ == "AnnotateTask" and number == stop_after:
                    raise KeyboardInterrupt
                yield done
            if type(task).__name__ == "AnnotateTask":
                raise KeyboardInterrupt

    run_annotate(raw, tmp_path / "straight", shard_bytes=shard_bytes)
    with pytest.raises(KeyboardInterrupt):
        run_annotate(raw, tmp_path / "out", engine=Stopping(workers=0), shard_bytes=shard_bytes)
    partial = ClipDataset(tmp_path / "out")
    assert len(partial) == (stop_after if shard_bytes == 1 else 0)
    summary = run_annotate(raw, tmp_path / "out", shard_bytes=shard_bytes)
    assert summary.clips == 2
    assert summary.new_clips == 2 - min(stop_after + 1, 2)  # the clip in flight was staged before the interrupt
    assert _shards(tmp_path / "out") == _shards(tmp_path / "straight")
    for name in ("manifest.parquet", "dataset.json", "refusals.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()
    assert not list((tmp_path / "out" / ".work" / "clips").rglob("*.tar"))


def test_the_order_in_which_clips_end_does_not_matter(raw_with_truth, run_annotate, tmp_path):
    raw, _ = raw_with_truth

    class Backwards(LocalEngine):
        def run(self, task, jobs, on_progress):
            return super().run(task, list(jobs)[::-1], on_progress)

    run_annotate(raw, tmp_path / "forth")
    run_annotate(raw, tmp_path / "back", engine=Backwards(workers=0))
    assert _shards(tmp_path / "forth") == _shards(tmp_path / "back")


def test_refused_and_failed_clips_wait_for_retry_failed(tmp_path, scene, make_video, run_annotate):
    raw, out = tmp_path / "raw", tmp_path / "out"
    for frames in (9, 10, 11):
        make_video(raw / f"{frames:02d}.mp4", scene(frames, seed=frames)["video"])

    def trouble(frames: int) -> None:
        if frames == 9:
            raise AnnotationRefused("no-parallax", "the camera only turns; move it sideways")
        if frames == 10:
            raise RuntimeError("a bug")

    summary = run_annotate(raw, out, spec=FakeSpec(behave=trouble))
    assert _outcomes(out) == {"09.mp4": ("refused", "no-parallax"), "10.mp4": ("failed", "error")}
    assert (summary.clips, summary.count("failed")) == (1, 1)
    assert "RuntimeError: a bug" in (out / "refusals.jsonl").read_text()

    assert run_annotate(raw, out, spec=FakeSpec()).new_clips == 0
    assert len(_outcomes(out)) == 2
    summary = run_annotate(raw, out, spec=FakeSpec(), mode=RunMode(retry_failed=True))
    assert (summary.new_clips, summary.clips, summary.refusals) == (2, 3, [])
    assert len(ClipDataset(out)) == 3


def test_a_died_worker_is_that_clips_failure(raw_with_truth, run_annotate, tmp_path):
    class Dying(LocalEngine):
        def run(self, task, jobs, on_progress):
            for done in super().run(task, jobs, on_progress):
                died = type(task).__name__ == "AnnotateTask" and done.job.plan.source == "a.mp4"
                yield Done(job=done.job, error="the worker process died by SIGSEGV") if died else done

    summary = run_annotate(raw_with_truth[0], tmp_path / "out", engine=Dying(workers=0))
    assert summary.clips == 1
    assert [(refusal.status, refusal.source) for refusal in summary.refusals] == [("failed", "a.mp4")]
    assert "SIGSEGV" in summary.refusals[0].reason


def test_oracle_refuses_truth_that_does_not_fit(raw_with_truth, run_annotate, tmp_path):
    raw, truth = raw_with_truth
    (truth / "sub" / "b.npz").unlink()
    content = dict(np.load(truth / "a.npz"))
    np.savez(truth / "a.npz", **{name: array[:5] for name, array in content.items()})
    run_annotate(raw, tmp_path / "out")
    assert _outcomes(tmp_path / "out") == {"a.mp4": ("refused", "bad-truth"), "sub/b.mp4": ("refused", "no-truth")}


def test_oracle_noise_is_seeded_and_of_the_asked_size(raw_with_truth, run_annotate, tmp_path):
    from fw_data.annotators.oracle.spec import OracleSpec

    raw, truth = raw_with_truth
    for name in ("one", "two"):
        run_annotate(raw, tmp_path / name, spec=OracleSpec(truth=truth, depth_noise=0.05))
    one, two = (ClipDataset(tmp_path / name).load(0) for name in ("one", "two"))
    np.testing.assert_array_equal(one.depth_m, two.depth_m)
    with np.load(truth / "a.npz") as arrays:
        ratio = np.log(one.depth_m / arrays["depth_m"])
    assert 0.03 < ratio.std() < 0.06


def test_other_settings_need_another_folder(raw_with_truth, run_annotate, tmp_path):
    raw, _ = raw_with_truth
    run_annotate(raw, tmp_path / "out")
    with pytest.raises(ValueError, match=r"max_frames.*81.*9"):
        run_annotate(raw, tmp_path / "out", config={"max_frames": 9})


def test_without_its_working_folder_a_dataset_still_goes_on(raw_with_truth, run_annotate, tmp_path):
    import shutil

    raw, _ = raw_with_truth
    out = tmp_path / "out"
    run_annotate(raw, out)
    before = _shards(out)
    shutil.rmtree(out / ".work")
    assert run_annotate(raw, out).new_clips == 0
    assert _shards(out) == before


def test_a_deleted_shard_is_made_again_and_a_torn_one_is_reported(raw_with_truth, run_annotate, tmp_path):
    raw, _ = raw_with_truth
    out = tmp_path / "out"
    run_annotate(raw, out)
    before = _shards(out)
    shard = out / "shards" / "000000.tar"
    shard.write_bytes(before["000000.tar"][:-100])
    with pytest.raises(DataError, match="shards"):
        run_annotate(raw, out)
    shard.unlink()
    assert run_annotate(raw, out).new_clips == 2
    assert _shards(out) == before


def test_folders_that_cannot_work(tmp_path, raw_with_truth, run_annotate):
    raw, _ = raw_with_truth
    with pytest.raises(ValueError, match=str(tmp_path)):
        run_annotate(tmp_path / "nowhere", tmp_path / "out", spec=FakeSpec())
    with pytest.raises(ValueError, match=str(raw)):
        run_annotate(raw, raw / "out")
    for wrong in ({"min_frames": 9, "max_frames": 5}, {"size": "10x10"}, {"crf": 99}):
        with pytest.raises(ValueError):
            run_annotate(raw, tmp_path / "out", config=wrong)


def test_two_runs_at_once_are_refused(raw_with_truth, run_annotate, tmp_path):
    from fw_data.annotate.workdir import WorkDir

    with WorkDir(tmp_path / "out").locked(), pytest.raises(DataError, match="out"):
        run_annotate(raw_with_truth[0], tmp_path / "out")
