"""The WorldScore harness: its paths against the benchmark's own numbers, its layout, resuming and checking."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fw_geometry import make_trajectory
from fw_model.pipeline.pipeline import WorldPipeline
from fw_train.config.schema import ConfigError
from fw_train.evaluate.options import WorldScoreOptions
from fw_train.worldscore.format import MOVEMENTS, BenchmarkImage, camera_data, camera_path, read_images
from fw_train.worldscore.measures import LABELS
from fw_train.worldscore.run import run

HALF = 0.8660254
LAST = {
    ("push_in",): [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 1]],
    ("pull_out",): [[-1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, -1]],
    ("move_left",): [[-1, 0, 0, 0.5], [0, 1, 0, 0], [0, 0, -1, 0]],
    ("orbit_left",): [[-HALF, 0, 0.5, 0.5], [0, 1, 0, 0], [-0.5, 0, -HALF, 0.133975]],
    ("pan_left", "move_left", "pull_out"): [
        [-HALF, 0, -0.5, -0.066987],
        [0, 1, 0, 0],
        [0.5, 0, -HALF, -1.116025],
    ],
}
"""Last rows of cameras_interp that the benchmark's camera generator writes (its commit 344983c, run here)."""


@pytest.mark.parametrize("movements", LAST, ids="+".join)
def test_paths_end_where_those_of_the_benchmark_do(movements):
    data = camera_data(camera_path(list(movements), 5), 5, 500.0)
    np.testing.assert_allclose(data["cameras_interp"][-1][:3], LAST[movements], atol=1e-6)
    assert (data["focal_length"], data["scale"]) == (500.0, 1)
    assert len(data["cameras_interp"]) == 4 * len(movements) + 1
    assert data["cameras"] == data["cameras_interp"][::4]
    np.testing.assert_array_equal(data["cameras_interp"][0], np.diag([-1, 1, -1, 1]))


def test_movements_match_their_names():
    """Against this project's own presets, which have their tests: truck and pan to the right, dolly forward."""
    for name, preset, distance in (
        ("push_in", "dolly", 1.0),
        ("move_right", "truck", 0.5),
        ("pan_right", "pan", None),
        ("orbit_right", "orbit", None),
    ):
        angle_rad = None if distance else np.radians(30)
        path = make_trajectory(preset, 2, width=8, height=8, focus_distance=1.0, distance=distance, angle_rad=angle_rad)
        np.testing.assert_allclose(camera_path([name], 5)[-1], path.pose_c2w[-1], atol=1e-12, err_msg=name)
    for name in MOVEMENTS:
        mirrored = name.replace("left", "RIGHT").replace("right", "left").replace("RIGHT", "right")
        flip = np.diag([-1.0, 1, 1, 1])
        if mirrored != name:
            np.testing.assert_allclose(flip @ camera_path([name], 3) @ flip, camera_path([mirrored], 3), atol=1e-12)


def entry(name: str, movements: list[str], style: str = "photorealistic") -> dict[str, object]:
    return {
        "image": f"static/images/{style}/indoor/kitchen/{name}.png",
        "visual_movement": "static",
        "visual_style": style,
        "scene_type": "indoor",
        "camera_path": movements,
        "style": "A photo",
        "prompt": "kitchen, table",
        "prompt_list": ["Kitchen, table", *(f"Hall {i}." for i in range(len(movements)))],
        "content_list": [["table"]] * (len(movements) + 1),
    }


def write_dataset(root: Path, entries: list[dict[str, object]]) -> Path:
    (root / "static").mkdir(parents=True, exist_ok=True)
    (root / "static" / "static.json").write_text(json.dumps(entries))
    for index, one in enumerate(entries):
        path = root / str(one["image"])
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (40, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


@pytest.fixture
def benchmark(tmp_path: Path) -> Path:
    entries = [
        entry("000", ["push_in"]),
        entry("001", ["pan_left", "orbit_right"]),
        entry("9", ["push_in"], "stylized"),
    ]
    return write_dataset(tmp_path / "benchmark", entries)


def test_prompts_are_worded_as_the_benchmark_does(benchmark: Path):
    _, long = read_images(benchmark, style="photorealistic")
    assert long.prompts() == [
        "Camera pan left. Hall 0. A photo. Everything in the scene remains completely motionless.",
        "Camera orbit right. Hall 1. A photo. Everything in the scene remains completely motionless.",
    ]
    assert long.place == "worldscore_output/static/photorealistic/indoor/kitchen/001"


def test_outputs_are_what_the_evaluation_reads_and_a_second_run_resumes(
    benchmark: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    options = WorldScoreOptions(dataset=benchmark, out=tmp_path / "out", checkpoint=checkpoint, focal_px=40.0, seed=1)
    assert run(WorldScoreOptions(dataset=benchmark, out=tmp_path / "out", check=True)) == 1
    assert "0 of 2" in capsys.readouterr().out
    assert run(options) == 0
    folder = tmp_path / "out" / "worldscore_output" / "static" / "photorealistic" / "indoor" / "kitchen" / "001"
    names = sorted(path.name for path in (folder / "frames").iterdir())
    assert names == [f"{index:03d}.png" for index in range(9)]
    image, cameras = (json.loads((folder / name).read_text()) for name in ("image_data.json", "camera_data.json"))
    assert (image["num_scenes"], image["total_frames"], image["anchor_frame_idx"]) == (2, 9, [0, 4, 8])
    assert image["content_list"] == [["table"]] * 3
    assert len(cameras["cameras_interp"]) == 9
    assert np.asarray(Image.open(folder / "input_image.png")).shape == (32, 48, 3)
    assert np.asarray(Image.open(folder / "frames" / "000.png")).shape == (32, 48, 3)
    assert (folder / "videos" / "output.mp4").stat().st_size > 0
    config = (tmp_path / "out" / "fantasyworld.yaml").read_text()
    assert "resolution: [48, 32]" in config
    assert "frames: 5" in config
    assert not list(folder.parent.glob(".*"))
    ours = json.loads((folder / "our_measures.json").read_text())["movements"]
    assert len(ours) == 2
    assert all(set(movement) == set(LABELS) for movement in ours)
    assert "ours, not WorldScore: photometric consistency" in capsys.readouterr().out

    before = (folder / "frames" / "004.png").stat().st_mtime_ns
    capsys.readouterr()
    (folder.parent / "000" / "frames" / "001.png").unlink()
    assert run(options) == 0
    printed = capsys.readouterr().out
    assert "4 frames and 5 cameras" in printed
    assert "2 images, 1" in printed
    (folder.parent / "000" / "origin.json").unlink()
    with pytest.raises(ConfigError, match="000"):
        run(options)
    shutil.rmtree(folder.parent / "000")
    assert run(options) == 0
    assert "2 images, 1" in capsys.readouterr().out
    assert (folder / "frames" / "004.png").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"seed.*1.*2"):
        run(WorldScoreOptions(dataset=benchmark, out=tmp_path / "out", checkpoint=checkpoint, focal_px=40.0, seed=2))


def test_each_movement_starts_from_the_frame_before(benchmark: Path, checkpoint: Path, tmp_path: Path, monkeypatch):
    asked = []
    generate = WorldPipeline.generate

    def spy(self, image, prompt, trajectory, **options):
        asked.append((image, prompt, trajectory, options))
        return generate(self, image, prompt, trajectory, **options)

    monkeypatch.setattr(WorldPipeline, "generate", spy)
    run(WorldScoreOptions(dataset=benchmark, out=tmp_path, checkpoint=checkpoint, focal_px=40.0, unit=0.5))
    folder = tmp_path / "worldscore_output" / "static" / "photorealistic" / "indoor" / "kitchen" / "001"
    assert len(asked) == 3
    _, second, third = asked
    np.testing.assert_array_equal(second[0], np.asarray(Image.open(folder / "input_image.png")))
    np.testing.assert_array_equal(third[0], np.asarray(Image.open(folder / "frames" / "004.png")))
    assert third[1].startswith("Camera orbit right. Hall 1.")
    np.testing.assert_allclose(third[2].pose_c2w[-1], MOVEMENTS["orbit_right"].pose(), atol=1e-12)
    assert third[2].K[0, 0, 0] == 40
    assert third[3]["scene_scale"] == 2
    assert second[3]["seed"] != third[3]["seed"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"camera_path": ["fly"], "prompt_list": ["a", "b"]}, "'fly'.*push_in"),
        ({"prompt_list": ["a"]}, r"1 prompts.*1 movements"),
        ({"visual_movement": "dynamic"}, "dynamic.*static"),
        ({"image": "alone.png"}, "CATEGORY/NAME"),
        ({"style": 3}, "0.style"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path, change: dict[str, object], message: str):
    root = write_dataset(tmp_path / "benchmark", [entry("000", ["push_in"])])
    (root / "static" / "static.json").write_text(json.dumps([{**entry("000", ["push_in"]), **change}]))
    with pytest.raises(ConfigError, match=message):
        read_images(root)


def test_a_folder_that_is_no_dataset_and_missing_images(benchmark: Path, checkpoint: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"static/static\.json"):
        read_images(tmp_path)
    with pytest.raises(ConfigError, match="--checkpoint"):
        run(WorldScoreOptions(dataset=benchmark, out=tmp_path / "out"))
    (benchmark / "static/images/photorealistic/indoor/kitchen/001.png").unlink()
    with pytest.raises(ConfigError, match=r"1 .*001\.png"):
        run(WorldScoreOptions(dataset=benchmark, out=tmp_path / "out", checkpoint=checkpoint))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda folder: (folder / "frames" / "002.png").unlink(), "4 frames and 5 cameras, expected 5 of each"),
        (lambda folder: (folder / "input_image.png").unlink(), "input_image.png"),
        (lambda folder: (folder / "camera_data.json").write_text("{}"), "camera_data.json"),
    ],
)
def test_check_names_missing_files(benchmark: Path, checkpoint: Path, tmp_path: Path, capsys, harm, reason: str):
    options = WorldScoreOptions(dataset=benchmark, out=tmp_path, checkpoint=checkpoint, limit=1)
    assert run(options) == 0
    folder = tmp_path / BenchmarkImage.model_validate(entry("000", ["push_in"])).place
    assert json.loads((folder / "camera_data.json").read_text())["focal_length"] == 500 / 512 * 32
    harm(folder)
    capsys.readouterr()
    assert run(WorldScoreOptions(dataset=benchmark, out=tmp_path, check=True, limit=1)) == 1
    assert reason in capsys.readouterr().out
