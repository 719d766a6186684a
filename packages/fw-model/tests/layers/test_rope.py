"""Rotary embeddings against complex numbers in float64."""

import pytest
import torch

from fw_model.layers.rope import PlaneRope, VideoRope, plane_positions, rotate_halves, rotate_pairs, rotate_pairs_real


def wan_complex(x, grid, width):
    """The official formula: complex128 tables per axis, parts (time, row, column), adjacent pairs."""
    third = width // 3
    parts = (width - 2 * third, third, third)
    index = torch.cartesian_prod(*(torch.arange(n) for n in grid)).double()
    angles = torch.cat(
        [index[:, a, None] * 10000.0 ** (-torch.arange(0, p, 2, dtype=torch.float64) / p) for a, p in enumerate(parts)],
        dim=1,
    )
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    rotated = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.view_as_real(rotated).flatten(-2)


@pytest.mark.parametrize("width", [12, 24, 32, 48, 96, 128])
def test_video_rope_is_wans(width):
    grid = (21, 3, 4)
    x = torch.randn(2, 21 * 12, 2, width, generator=torch.Generator().manual_seed(0))
    ours = rotate_pairs(x, VideoRope(width)(*grid))
    assert (ours - wan_complex(x, grid, width)).abs().max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_complex_and_real_rotation_are_one(dtype):
    """The fast path and its plain twin, in value and gradient."""
    rotation = VideoRope(24)(2, 2, 3)
    x = torch.randn(2, 12, 3, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight = torch.randn(2, 12, 3, 24, generator=torch.Generator().manual_seed(2))
    results = []
    for rotate in (rotate_pairs, rotate_pairs_real):
        leaf = x.clone().requires_grad_()
        out = rotate(leaf, rotation)
        (out.float() * weight).sum().backward()
        assert leaf.grad is not None
        results.append((out.detach(), leaf.grad))
    for fast, plain in zip(*results, strict=True):
        assert fast.dtype == plain.dtype == dtype
        torch.testing.assert_close(fast, plain)


def test_far_positions_stay_exact():
    """float32 tables made from float64 angles: no loss at the far end of a 1023-wide grid."""
    rope = VideoRope(128)
    x = torch.randn(1, 1024, 1, 128, generator=torch.Generator().manual_seed(0))
    assert (rotate_pairs(x, rope(1, 1, 1024)) - wan_complex(x, (1, 1, 1024), 128)).abs().max() < 2e-6
    with pytest.raises(ValueError, match=r"1025.*1024"):
        rope(1, 1, 1025)


def test_specials_are_not_rotated():
    rope = VideoRope(24)
    rotation = rope(3, 2, 2, num_special_tokens=5)
    x = torch.randn(1, 27, 2, 24, generator=torch.Generator().manual_seed(0))
    out = rotate_pairs(x, rotation).unflatten(1, (3, 9))
    frames = x.unflatten(1, (3, 9))
    assert torch.equal(out[:, :, :5], frames[:, :, :5])
    alone = rotate_pairs(frames[:, :, 5:].flatten(1, 2), rope(3, 2, 2))
    assert torch.equal(out[:, :, 5:].flatten(1, 2), alone)


def test_plane_rope_depends_on_offsets_only():
    """Scores of rotated q and k change with the difference of the positions, not with the positions."""
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 1, 1, 24, generator=g), torch.randn(1, 1, 1, 24, generator=g)
    rotation = PlaneRope(24)(6, 7, 0)
    a = rotate_halves(q.expand(-1, 42, -1, -1), rotation)[0, :, 0]
    b = rotate_halves(k.expand(-1, 42, -1, -1), rotation)[0, :, 0]
    scores = (a @ b.T).reshape(6, 7, 6, 7)
    assert torch.allclose(scores[1, 1, 3, 4], scores[2, 3, 4, 6], atol=1e-5)
    assert not torch.allclose(scores[1, 1, 3, 4], scores[1, 1, 4, 3], atol=1e-3)
    assert plane_positions(2, 2, 1).tolist() == [[0, 0], [1, 1], [1, 2], [2, 1], [2, 2]]


def test_tables_survive_casts_and_empty():
    rope = VideoRope(24)
    expected = rope(4, 3, 2)
    for changed in (rope.to(torch.bfloat16), rope.half(), rope.to_empty(device="cpu"), rope.double()):
        again = changed(4, 3, 2)
        assert again.cos.dtype == torch.float32
        assert torch.equal(again.cos, expected.cos)
        assert torch.equal(again.sin, expected.sin)
    assert list(rope.state_dict()) == []
