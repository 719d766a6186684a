"""Tiled work against work on the whole: exact where it must be, and free of seams."""

import pytest
import torch

from fw_model.autoencoders.tiles import blend_tiles


def _noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def test_what_fits_into_one_tile_is_done_as_a_whole():
    x, calls = _noise(1, 2, 16, 24), []
    out = blend_tiles(x, lambda part: (calls.append(part), part * 2)[1], tile=24, stride=16)
    assert len(calls) == 1
    assert calls[0] is x
    assert torch.equal(out, x * 2)


@pytest.mark.parametrize("size", [(40, 24), (24, 41), (50, 67), (17, 100)])
@pytest.mark.parametrize(("tile", "stride"), [(24, 16), (24, 24), (16, 8), (24, 5)])
def test_pixelwise_work_is_exact(size, tile, stride):
    """The weights of the tiles over a pixel sum to one, at every edge and for every rest."""
    x = _noise(2, 3, *size)
    torch.testing.assert_close(blend_tiles(x, lambda part: 3 * part + 1, tile=tile, stride=stride), 3 * x + 1)


def test_results_of_another_size():
    x = _noise(1, 2, 5, 7)
    up = blend_tiles(x, lambda p: p.repeat_interleave(8, -1).repeat_interleave(8, -2), tile=4, stride=3, numerator=8)
    torch.testing.assert_close(up, x.repeat_interleave(8, -1).repeat_interleave(8, -2))
    down = blend_tiles(up, lambda part: part[..., ::8, ::8], tile=32, stride=24, denominator=8)
    torch.testing.assert_close(down, x)


def test_tiles_that_disagree_fade_into_each_other():
    """Three tiles of constants: between them the result rises in even steps, nowhere faster."""
    count = iter(range(3))
    out = blend_tiles(torch.zeros(1, 8, 24), lambda part: part + next(count), tile=12, stride=6)
    row = out[0, 0]
    assert row[0] == 0
    assert row[-1] == 2
    assert float(row.diff().min()) >= 0
    assert float(row.diff().max()) <= 1 / 6 + 1e-6
    assert torch.equal(out, out[:, :1].expand_as(out))


def test_no_tile_is_larger_than_asked():
    sizes = []
    blend_tiles(_noise(1, 50, 70), lambda p: (sizes.append(tuple(p.shape[-2:])), p)[1], tile=16, stride=12)
    assert set(sizes) == {(16, 16)}
