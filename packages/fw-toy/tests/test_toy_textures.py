"""Textures: in range, seamless, nowhere blank, and looked up where they should be."""

import numpy as np
import pytest

from fw_toy.textures.atlas import SIDES, Atlas, linear_to_srgb, srgb_to_linear, tile
from fw_toy.textures.noise import courses, spectral, voronoi, warp
from fw_toy.textures.surface import KINDS, hue


@pytest.mark.parametrize("name", sorted(KINDS))
def test_every_kind_is_in_range_repeatable_and_nowhere_blank(name):
    surface = KINDS[name](np.random.default_rng(3), 64)
    assert surface.color.shape == (64, 64, 3)
    assert surface.color.min() >= 0
    assert surface.color.max() <= 1
    assert np.isfinite(surface.height).all()
    gray = surface.color.mean(-1).reshape(4, 16, 4, 16)
    assert gray.std(axis=(1, 3)).min() > 0.006
    np.testing.assert_array_equal(KINDS[name](np.random.default_rng(3), 64).color, surface.color)


def test_noise_is_seamless():
    field = spectral(np.random.default_rng(0), 128, 1.2)
    inside = np.abs(np.diff(field, axis=0)).mean()
    assert np.abs(field[0] - field[-1]).mean() < 1.6 * inside
    assert abs(field.mean()) < 1e-9
    assert field.std() == pytest.approx(1.0)
    moved = warp(field, np.full((128, 128), 128.0), np.zeros((128, 128)))
    np.testing.assert_allclose(moved, field, atol=1e-9)


def test_stretch_below_one_lengthens_along_u():
    field = spectral(np.random.default_rng(0), 128, 0.5, 4, stretch=0.2)
    along_u, along_v = np.abs(np.diff(field, axis=1)).mean(), np.abs(np.diff(field, axis=0)).mean()
    assert along_u < 0.5 * along_v


def test_cells_cover_the_tile_and_wrap():
    cells = voronoi(np.random.default_rng(0), 64, 25)
    assert set(np.unique(cells.index)) == set(range(cells.count))
    assert np.hypot(cells.u, cells.v).max() < 0.5
    bricks = courses(64, 4, 2)
    assert len(np.unique(bricks.index)) == 8
    assert bricks.index[0, 0] == bricks.index[1, 1]


def test_srgb_round_trip():
    values = np.linspace(0, 1, 101)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)
    assert srgb_to_linear(np.array(0.5)) == pytest.approx(0.21404, abs=1e-5)
    assert hue(0.0, 1.0, 1.0) == (1.0, 0.0, 0.0)


def test_atlas_finds_texels_levels_and_slots():
    side = SIDES[0]
    atlas = Atlas([("brick", 0), ("tiles", 1)], side)
    rng = np.random.default_rng(0)
    rows, columns, slot = rng.integers(0, side, 50), rng.integers(0, side, 50), rng.integers(0, 2, 50)
    uv = (np.stack([columns, rows], -1) + 0.5) / side + rng.integers(-3, 4, (50, 2))
    found = atlas.sample(slot, uv.astype(np.float32), np.full(50, 0.5 / side))
    finest = [tile("brick", 0, side)[: side**2], tile("tiles", 1, side)[: side**2]]
    expected = np.stack([finest[s][r * side + c] for s, r, c in zip(slot, rows, columns, strict=True)])
    np.testing.assert_allclose(found, expected, atol=0.02)
    blurred = atlas.sample(slot, uv.astype(np.float32), np.full(50, 4.0))
    np.testing.assert_allclose(blurred, atlas.means()[slot], atol=1e-3)
    np.testing.assert_allclose(atlas.means()[0], finest[0].astype(float).mean(0), atol=2e-3)


def test_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="brick"):
        tile("velvet", 0, 64)
