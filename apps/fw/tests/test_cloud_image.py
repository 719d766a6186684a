"""Images and tables of the report."""

import base64
import io

import numpy as np
from PIL import Image

from fw_app.cloud_image import RECOVERED, REQUESTED, render_cloud
from fw_geometry import make_trajectory
from fw_train.page import figure, html_table, png_data_uri, strip


def test_a_strip_takes_first_and_last() -> None:
    frames = np.arange(9, dtype=np.uint8).reshape(9, 1, 1, 1).repeat(3, axis=3)
    row = strip(frames, 3, 2)
    assert row.shape == (2, 6, 3)
    assert row[0, :, 0].tolist() == [0, 0, 4, 4, 8, 8]


def test_a_image_survives_its_address() -> None:
    image = np.random.default_rng(0).integers(0, 255, (5, 7, 3), dtype=np.uint8)
    uri = png_data_uri(image)
    data = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)


def test_a_cloud_is_drawn_near_over_far_with_the_path_in_red() -> None:
    rng = np.random.default_rng(0)
    wall = np.concatenate([rng.uniform(-1, 1, (4000, 2)), np.full((4000, 1), 3.0)], axis=1)
    near = np.array([0.0, 0.0, 2.0]) + rng.normal(0, 0.02, (400, 3))
    colors = np.concatenate([np.tile([[0, 0, 255]], (4000, 1)), np.tile([[0, 255, 0]], (400, 1))]).astype(np.uint8)
    path = make_trajectory("truck", 9, width=96, height=64)
    image = render_cloud(np.concatenate([wall, near]), colors, path, height=120, width=200)
    counts = {tuple(c): n for c, n in zip(*np.unique(image.reshape(-1, 3), axis=0, return_counts=True), strict=True)}
    assert counts[(0, 0, 255)] > 500
    assert counts[(0, 255, 0)] > 20
    assert counts[(215, 38, 61)] > 50, "the whole path is in the image"


def test_the_recovered_path_is_drawn_beside_the_requested_one() -> None:
    wall = np.array([[x, y, 3.0] for x in np.linspace(-1, 1, 20) for y in np.linspace(-1, 1, 20)])
    colors = np.zeros((len(wall), 3), np.uint8)
    asked = make_trajectory("truck", 9, width=96, height=64)
    alone = render_cloud(wall, colors, asked)
    assert not (alone == RECOVERED).all(axis=-1).any()
    same = render_cloud(wall, colors, asked, recovered=asked)
    other = render_cloud(wall, colors, asked, recovered=make_trajectory("dolly", 9, width=96, height=64))
    hidden, blue = ((image == RECOVERED).all(axis=-1) for image in (same, other))
    assert (same == REQUESTED).all(axis=-1).any(), "a path that was followed exactly hides the requested one"
    assert (hidden != blue).any(), "another path is drawn elsewhere"


def test_an_empty_cloud_is_an_empty_image() -> None:
    path = make_trajectory("still", 2, width=96, height=64)
    image = render_cloud(np.zeros((0, 3)), np.zeros((0, 3), np.uint8), path)
    assert (image == 250).all()


def test_tables_and_captions_are_escaped() -> None:
    assert "<td>&lt;b&gt;</td>" in html_table(["a"], [["<b>"]])
    assert '<td class="text">' in html_table(["command"], [["fw-train stage1 tiny --data demo/dataset --out demo"]])
    assert 'alt="a &quot;b&quot;"' in figure(np.zeros((1, 1, 3), np.uint8), 'a "b"')
