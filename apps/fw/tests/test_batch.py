"""`fw generate --batch`: rows checked first, failures recorded, finished worlds skipped, shares under torchrun."""

import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from fw_app import cli
from fw_app.batch import finished, read_batch
from fw_app.generate import unit_note
from fw_app.options import GenerateOptions
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.checkpoints.checkpoint import save_world
from fw_model.config import tiny
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.export import read_world
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.components import save_components
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.settings import Sampling


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("batch") / "checkpoint"
    save_world(FantasyWorld(tiny(), seed=0), folder, dtype=torch.float32)
    sampling = Sampling(num_frames=5, height=16, width=32, num_inference_steps=2, guidance_scale=1.0)
    save_components(folder, BlockDCT(), HashTextEncoder(), sampling=sampling)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in "abc":
        Image.fromarray(rng.integers(0, 255, (16, 32, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(batch: Path, out: Path, checkpoint: Path, *more: str) -> int:
    words = ["--batch", str(batch), "--out", str(out), "--checkpoint", str(checkpoint), "--device", "cpu"]
    return cli.main(["generate", *words, "--trajectory", "dolly", *more])


def test_a_failed_world_is_recorded_and_the_next_run_makes_only_what_is_missing(
    images: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "broken.png").write_bytes((images / "a.png").read_bytes()[:60])
    rows = [
        {"image": "a.png", "prompt": "a room", "name": "first"},
        {"image": "broken.png", "name": "second"},
        {"image": "b.png", "seed": 3, "num_inference_steps": 1, "trajectory": "pan", "angle_deg": 5},
    ]
    batch, out = write(images / "worlds.jsonl", *rows), images / "out"
    assert run(batch, out, checkpoint) == 1
    said = capsys.readouterr()
    assert "second" in said.err
    assert "broken.png" in said.err
    assert set(finished(out)) == {"first", "0003"}
    assert read_world(out / "0003").settings["seed"] == 3
    assert read_world(out / "first").settings["prompt"] == "a room"
    stamps = {name: (out / name / "world.json").stat().st_mtime_ns for name in finished(out)}
    (images / "broken.png").write_bytes((images / "c.png").read_bytes())
    rows[2]["seed"] = 4  # another world of this name
    assert run(write(batch, *rows), out, checkpoint) == 0
    assert set(finished(out)) == {"first", "second", "0003"}
    assert (out / "first" / "world.json").stat().st_mtime_ns == stamps["first"]
    assert read_world(out / "0003").settings["seed"] == 4


def test_a_world_of_a_batch_equals_the_same_world_alone(images: Path, checkpoint: Path) -> None:
    batch = write(images / "worlds.jsonl", {"image": "a.png", "seed": 5}, {"image": "b.png", "seed": 6})
    assert run(batch, images / "out", checkpoint) == 0
    words = [str(images / "b.png"), "--out", str(images / "alone"), "--checkpoint", str(checkpoint), "--seed", "6"]
    assert cli.main(["generate", *words, "--trajectory", "dolly", "--device", "cpu"]) == 0
    together, alone = read_world(images / "out" / "0002"), read_world(images / "alone")
    np.testing.assert_array_equal(together.video, alone.video)
    np.testing.assert_array_equal(together.depth, alone.depth)


def test_every_process_takes_its_share(
    images: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    batch = write(images / "worlds.jsonl", *({"image": f"{name}.png"} for name in "abc"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, names in ((0, {"0001", "0003"}), (1, {"0001", "0002", "0003"})):
        monkeypatch.setenv("RANK", str(rank))
        assert run(batch, images / "out", checkpoint) == 0
        assert set(finished(images / "out")) == names
    assert {path.name for path in (images / "out").glob("results*")} == {"results-000.jsonl", "results-001.jsonl"}
    capsys.readouterr()
    assert run(batch, images / "out", checkpoint) == 0
    assert "1 already finished" in capsys.readouterr().out


def test_csv_and_jsonl_give_the_same_rows(images: Path) -> None:
    options = GenerateOptions(batch=Path("x"), out=images / "out")
    ball = {"prompt": "a room, with a ball", "seed": 7, "trajectory": "orbit", "cross_branch": False}
    rows = [
        {"image": "a.png", **ball, "timesteps": [1000, 500]},
        {"image": "example:room-1", "distance": 0.5, "name": "door"},
    ]
    jsonl = read_batch(write(images / "w.jsonl", *rows), options)
    (images / "w.csv").write_text(
        "\ufeffimage,prompt,seed,trajectory,cross_branch,distance,name,timesteps\r\n"
        'a.png,"a room, with a ball",7,orbit,false,,,"1000,500"\r\nexample:room-1,,,,,0.5,door,\r\n',
        encoding="utf-8",
    )
    table = read_batch(images / "w.csv", options)
    assert [row.digest() for row in jsonl] == [row.digest() for row in table]
    assert [row.name for row in table] == ["0001", "door"]
    assert table[0].options.settings.cross_branch is False


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image": "a.png", "sede": 1}, ("line 2", "sede", "seed")),
        ({"image": "a.png", "num_frames": 6}, ("line 2", "num_frames", "6")),
        ({"image": "a.png", "seed": "x"}, ("line 2", "seed")),
        ({"image": "missing.png"}, ("line 2", "missing.png")),
        ({"prompt": "no image"}, ("line 2", "image")),
        ({"image": "a.png", "name": "../up"}, ("line 2", "name")),
        ({"image": "a.png", "name": "first"}, ("line 2", "first", "line 1")),
        ([1], ("line 2", "object")),
    ],
)
def test_a_wrong_row_is_refused_before_any_work(
    images: Path, row: object, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    batch = write(images / "worlds.jsonl", {"image": "a.png", "name": "first"}, row)
    assert run(batch, images / "out", Path("/nowhere")) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (images / "out").exists()


def test_an_image_or_a_batch_but_not_both(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], [str(images / "a.png"), "--batch", "x.jsonl"]):
        assert cli.main(["generate", *words, "--out", str(images / "out")]) == 2
        assert "--batch" in capsys.readouterr().err


def test_notes_on_the_inputs_are_printed_once_and_stored(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A photo stored on its side, a camera file without intrinsics, a prompt beyond the encoder."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (16, 32)).save(tmp_path / "photo.jpg", exif=exif)
    (tmp_path / "path.txt").write_text("".join(f"{i} 0 0 {i} 0 0 0 1\n" for i in range(5)))  # TUM
    words = " ".join(f"word{i}" for i in range(600))
    command = [str(tmp_path / "photo.jpg"), "--trajectory", str(tmp_path / "path.txt"), "--prompt", words]
    command += ["--checkpoint", str(checkpoint), "--device", "cpu", "--out", str(tmp_path / "world")]
    assert cli.main(["generate", *command]) == 0
    printed = capsys.readouterr().out
    notes = read_world(tmp_path / "world").notes
    for part in ("EXIF", "no intrinsics", "words"):
        assert printed.count(part) == 1, part
        assert sum(part in note for note in notes) == 1, part


@pytest.mark.parametrize("batch", [False, True])
def test_an_unwritable_folder_is_refused_before_the_model_loads(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], batch: bool
) -> None:
    (images / "taken").touch()

    def load(*_args: object, **_options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("fw_app.generate.load_pipeline", load)
    monkeypatch.setattr("fw_app.batch.load_pipeline", load)
    first = ["--batch", str(write(images / "worlds.jsonl", {"image": "a.png"}))] if batch else [str(images / "a.png")]
    assert cli.main(["generate", *first, "--out", str(images / "taken")]) == 2
    assert "taken: is a file; give a folder" in capsys.readouterr().err


def test_a_unit_of_all_frames_is_noted(checkpoint: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = images / "other"
    shutil.copytree(checkpoint, other)
    for unit, count in (("first frame", 0), ("all frames", 1)):
        unit_note.cache_clear()
        (other / "training.json").write_text(json.dumps({"stages": [{"stage": "stage2", "scene_unit": unit}]}))
        words = [str(images / "a.png"), "--out", str(images / unit), "--checkpoint", str(other)]
        assert cli.main(["generate", *words, "--device", "cpu", "--num-inference-steps", "1"]) == 0
        assert capsys.readouterr().out.count("mean distances of all frames") == count
        assert sum("mean distances of all frames" in note for note in read_world(images / unit).notes) == count


def test_worlds_of_one_pass_are_those_of_single_passes(images: Path, checkpoint: Path) -> None:
    rows = [{"image": f"{name}.png", "seed": seed} for seed, name in enumerate("abc")]
    rows.insert(1, {"image": "a.png", "num_inference_steps": 1, "name": "other"})
    batch = write(images / "worlds.jsonl", *rows)
    assert run(batch, images / "alone", checkpoint) == 0
    assert run(batch, images / "together", checkpoint, "--samples-per-pass", "2") == 0
    assert set(finished(images / "together")) == {"0001", "other", "0003", "0004"}
    for name in finished(images / "alone"):
        one, other = read_world(images / "alone" / name), read_world(images / "together" / name)
        assert np.abs(one.video.astype(int) - other.video).max() <= 1
        np.testing.assert_allclose(one.depth, other.depth, rtol=1e-4)
        assert one.settings == other.settings
    assert run(batch, images / "together", checkpoint) == 0  # nothing is missing, whatever the size of a pass
    assert len((images / "together" / "results-000.jsonl").read_text().splitlines()) == 4


def test_a_pass_that_fails_is_repeated_one_world_at_a_time(
    images: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = FantasyWorld.forward

    def small_memory(self: FantasyWorld, latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if len(latents) > 1:
            raise torch.OutOfMemoryError("2 samples do not fit")
        out = forward(self, latents, *args, **kwargs)
        if calls.append(1) or len(calls) == 3:  # the first step of the second world
            out.velocity[0, 0, 0, 0, 0] = float("nan")
        return out

    calls: list[int] = []
    monkeypatch.setattr(FantasyWorld, "forward", small_memory)
    batch = write(images / "worlds.jsonl", *({"image": f"{name}.png"} for name in "abc"))
    assert run(batch, images / "out", checkpoint, "--samples-per-pass", "3") == 1
    said = capsys.readouterr()
    assert "a pass of 3 worlds failed" in said.err
    assert "not finite" in said.err
    assert "3/3 0003: completed" in said.out
    assert set(finished(images / "out")) == {"0001", "0003"}


def test_a_pass_that_breaks_its_group_is_recorded_with_its_own_error(
    images: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_out(self: WorldPipeline, _jobs: object) -> Any:
        self.parallel = cast(Any, SimpleNamespace(broken=True))
        raise torch.OutOfMemoryError("2 samples do not fit")

    monkeypatch.setattr(WorldPipeline, "run", run_out)
    batch = write(images / "worlds.jsonl", *({"image": f"{name}.png"} for name in "abc"))
    assert run(batch, images / "out", checkpoint, "--samples-per-pass", "2") == 1
    said = capsys.readouterr()
    assert "failed: 0001: 2 samples do not fit" in said.err
    assert "2 worlds were not tried" in said.err
    assert "one at a time" not in said.err


def test_a_terminal_shows_how_many_worlds_are_done(
    images: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1"), ("COLUMNS", "120")):
        monkeypatch.setenv(name, value)
    batch = write(images / "worlds.jsonl", {"image": "a.png"}, {"image": "b.png"})
    assert run(batch, images / "out", checkpoint) == 0
    said = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().out)
    assert re.search(r"worlds .*2/2", said)
    assert "2/2 0002: completed" in said
