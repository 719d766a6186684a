"""`fw-data toy`: options, files, resuming, captions."""

import json

import av
import numpy as np
import pytest

from fw_toy.cli import ToyOptions, plan_clips, run
from fw_toy.files import write_video
from fw_toy.rooms.clip import render_room
from fw_toy.worlds.captions import describe, plural


def options(out, **changes):
    values = {"clips": 1, "frames": 2, "size": "48x32", "scenes": "indoor", "workers": 1, "supersample": 1, "seed": 3}
    return ToyOptions(out=out, **(values | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy")
    run(options(out))
    return out


def test_files_have_the_promised_content(made):
    index = json.loads((made / "toy.json").read_text())
    assert [clip["name"] for clip in index["clips"]] == ["toy-000000"]
    assert index["options"]["seed"] == 3
    caption = (made / "raw" / "toy-000000.txt").read_text()
    assert caption == index["clips"][0]["caption"] + "\n"
    with np.load(made / "truth" / "toy-000000.npz", allow_pickle=False) as truth:
        assert truth["depth_m"].shape == (2, 32, 48)
        assert truth["depth_m"].dtype == np.float32
        assert (truth["depth_m"] >= 0).all()
        assert truth["K"].shape == (2, 3, 3)
        assert truth["K"][0, 0, 2] == 24
        assert truth["K"][0, 1, 2] == 16
        assert truth["pose_c2w"].shape == (2, 4, 4)
        assert not np.allclose(truth["pose_c2w"][0], truth["pose_c2w"][1])
    with av.open(str(made / "raw" / "toy-000000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.height, stream.width, stream.codec_context.pix_fmt) == (32, 48, "yuv420p")
        assert stream.average_rate == 16
        assert len(list(container.decode(stream))) == 2
    assert not [path for path in made.rglob("*") if path.name.startswith(".")]


def test_a_second_run_keeps_what_is_complete_and_mends_what_is_not(made, capsys):
    truth = made / "truth" / "toy-000000.npz"
    before = truth.stat().st_mtime_ns
    run(options(made))
    assert truth.stat().st_mtime_ns == before
    assert "1 kept" in capsys.readouterr().err
    (made / "raw" / "toy-000000.txt").unlink()
    content = truth.read_bytes()
    run(options(made))
    assert (made / "raw" / "toy-000000.txt").is_file()
    assert truth.read_bytes() == content


def test_a_folder_of_other_options_is_refused(made):
    with pytest.raises(ValueError, match="frames, seed"):
        run(options(made, frames=3, seed=4))


@pytest.mark.parametrize("size", ["", "64", "64x", "ax96", "95x64", "96x8", "9999x64", "-96x64"])
def test_bad_sizes_are_refused(size, tmp_path):
    with pytest.raises(ValueError, match="--size"):
        plan_clips(options(tmp_path, size=size))


def test_rooms_are_written_like_other_scenes(tmp_path):
    run(options(tmp_path, scenes="rooms", clips=2, seed=5))
    index = json.loads((tmp_path / "toy.json").read_text())
    assert [row["kind"] for row in index["clips"]] == ["rooms", "rooms"]
    expected = render_room(6, frames=2, height=32, width=48)
    with np.load(tmp_path / "truth" / "toy-000001.npz", allow_pickle=False) as truth:
        np.testing.assert_array_equal(truth["depth_m"], expected.depth_m)
        np.testing.assert_array_equal(truth["pose_c2w"], expected.plan.pose_c2w)
        np.testing.assert_array_equal(truth["K"][1], expected.plan.K)
    assert (tmp_path / "raw" / "toy-000001.txt").read_text() == expected.plan.caption + "\n"


@pytest.mark.parametrize(
    ("changes", "name"), [({"scenes": "rooms", "takes": 2}, "--takes"), ({"scenes": "x"}, "--scenes")]
)
def test_scenes_that_do_not_exist_and_takes_of_rooms_are_refused(tmp_path, changes, name):
    with pytest.raises(ValueError, match=name):
        plan_clips(options(tmp_path, **changes))


@pytest.mark.parametrize(
    ("name", "value"), [("clips", 0), ("frames", 1), ("supersample", 0), ("workers", -1), ("fps", 0.0), ("seed", -1)]
)
def test_options_out_of_range_are_refused(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"--{name}"):
        plan_clips(options(tmp_path, **{name: value}))


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=str(tmp_path)):
        run(options(tmp_path / "file"))


def test_video_keeps_the_images(tmp_path):
    y, x = np.mgrid[0:64, 0:96]
    image = np.stack([x * 2, y * 3, 128 + 60 * np.sin(x / 9) * np.cos(y / 7)], -1)
    video = np.stack([np.roll(image, k, axis=1) for k in range(4)]).clip(0, 255).astype(np.uint8)
    write_video(tmp_path / "clip.mp4", video, 12.5)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        back = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert back.shape == video.shape
    assert np.abs(back.astype(float) - video).mean() < 3.0
    write_video(tmp_path / "again.mp4", video, 12.5)
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data == (tmp_path / "again.mp4").read_bytes()
    assert b" threads=1 " in data  # x264 writes its settings into the stream


def test_captions_name_the_biggest_things_and_their_sides():
    labels = np.full((20, 40), -1)
    labels[:, :8], labels[:, 8:12], labels[5:9, 30:], labels[0, 20] = 0, 1, 2, 3
    names = ["a tree", "a tree", "a chest of drawers", "a speck"]
    text = describe("a sunlit park", names, labels, "orbit-left")
    assert text == (
        "A sunlit park with two trees on the left and a chest of drawers on the right; the camera orbits to the left."
    )
    assert describe("a park", names, np.full((4, 4), -1), "walk").startswith("A park; the camera walks")


@pytest.mark.parametrize(
    ("one", "many"),
    [
        ("a tree", "trees"),
        ("a bush", "bushes"),
        ("a bookshelf", "bookshelves"),
        ("a chest of drawers", "chests of drawers"),
        ("an arcade arch", "arcade arches"),
        ("marble columns", "marble columns"),
    ],
)
def test_plurals(one, many):
    assert plural(one) == many
