"""The depth blob against plain numpy: error bounds, windows, and refusal of torn data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fw_data.dataset import depth_codec
from fw_data.errors import DataError


def _depth(seed: int, frames: int, height: int, width: int, scale: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    depth = rng.lognormal(0, 0.7, (frames, height, width)) * scale
    return np.where(rng.random(depth.shape) < 0.1, 0, depth).astype(np.float32)


@given(
    seed=st.integers(0, 99),
    frames=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    scale=st.sampled_from([1e-6, 1e-3, 1.0, 40.0, 1e6]),
)
def test_depth_keeps_eleven_bits_and_the_invalid_pixels(seed, frames, height, width, scale):
    depth = _depth(seed, frames, height, width, scale)
    got = depth_codec.decode(depth_codec.encode_depth(depth))
    assert got.shape == depth.shape
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got == 0, depth == 0)
    assert np.abs(got - depth).max(initial=0, where=depth > 0) <= 2**-11 * depth.max(initial=0)
    np.testing.assert_allclose(got, depth, rtol=2**-11)


def test_depth_that_is_a_half_float_comes_back_exactly():
    depth = np.linspace(0.5, 2, 60).astype(np.float16).astype(np.float32).reshape(3, 4, 5)
    np.testing.assert_array_equal(depth_codec.decode(depth_codec.encode_depth(depth)), depth)


def test_depth_beyond_the_range_becomes_invalid():
    depth = np.ones((1, 2, 8), np.float32)
    depth[0, 0, 0] = 1e6
    got = depth_codec.decode(depth_codec.encode_depth(depth))
    assert got[0, 0, 0] == 0
    assert (got.ravel()[1:] == 1).all()


def test_labels_come_back_exactly():
    labels = np.arange(2 * 11 * 12, dtype=np.uint32).astype(np.uint8).reshape(2, 11, 12)
    np.testing.assert_array_equal(depth_codec.decode(depth_codec.encode_labels(labels)), labels)


def test_all_invalid_depth():
    assert not depth_codec.decode(depth_codec.encode_depth(np.zeros((2, 3, 4), np.float32))).any()


def test_confidence_within_half_a_step():
    confidence = np.random.default_rng(0).random((4, 6, 7), dtype=np.float32)
    got = depth_codec.decode(depth_codec.encode_confidence(confidence))
    assert np.abs(got - confidence).max() <= 0.5 / 255 + 1e-6
    edges = np.array([[[0, 1]]], np.float32)
    np.testing.assert_array_equal(depth_codec.decode(depth_codec.encode_confidence(edges)), edges)


@pytest.mark.parametrize("frames", [range(1, 4), range(0, 6, 2), range(5, 6), [4, 0]])
def test_some_frames_are_those_of_the_whole(frames):
    blob = depth_codec.encode_depth(_depth(3, 6, 5, 7, 1.0))
    np.testing.assert_array_equal(depth_codec.decode(blob, frames), depth_codec.decode(blob)[list(frames)])


def test_smooth_depth_is_smaller_than_half_floats():
    rows, columns = np.mgrid[:96, :128]
    depth = (3 + np.sin(columns / 40) + np.cos(rows / 30)).astype(np.float32)[None].repeat(3, 0)
    assert len(depth_codec.encode_depth(depth)) < depth.size * 2 * 0.6


def test_torn_and_foreign_blobs_say_so():
    blob = depth_codec.encode_depth(_depth(0, 3, 8, 8, 1.0))
    cases = {
        "blob-torn": [blob[:10], blob[:40], blob[:-5], blob[:-20] + bytes(20)],
        "blob-magic": [b"PK\x03\x04" + blob[4:]],
        "blob-version": [blob[:4] + b"\x63" + blob[5:]],
    }
    for code, broken in cases.items():
        for data in broken:
            with pytest.raises(DataError) as caught:
                depth_codec.decode(data)
            assert caught.value.code == code


def test_every_half_float_is_widened_exactly():
    """All finite float16 numbers from 0 up, zero and subnormal ones among them, at a scale that is not 1."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    depth = np.zeros((1, 16, 1984), np.float32)
    depth[0] = halves.reshape(16, -1)
    depth[0, 0, 0] = 0
    known = depth[depth > 0]
    depth *= np.float32(8.0) / np.float32(2.0 ** np.round(np.log2(np.median(known))))  # the stored scale is then 8
    blob = depth_codec.encode_depth(depth)
    assert depth_codec.read_header(blob).scale == 8
    again = depth_codec.decode(blob)
    stored = (depth.astype(np.float64) / 8).astype(np.float16)
    np.testing.assert_array_equal(again, stored.astype(np.float32) * np.float32(8))
    assert (stored[stored > 0] < 6e-5).any()  # subnormal
