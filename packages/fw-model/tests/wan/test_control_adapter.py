"""The pooled control adapter: equal to a released one with the same weight for all rays of a block."""

import torch

from fw_model.wan.control_adapter import ControlAdapter


def test_the_unpooled_adapter_gives_the_same() -> None:
    torch.manual_seed(0)
    pooled = ControlAdapter(24, 16, pooled=True)
    packed = torch.randn(2, 24, 3, 32, 48)
    full = pooled.unpooled()
    assert full.conv.weight.shape == (16, 24 * 64, 2, 2)
    assert pooled.conv.weight.shape == (16, 24, 2, 2)
    expected = full(full.prepare(packed))
    assert expected.shape == (2, 16, 3, 2, 3)
    torch.testing.assert_close(pooled(pooled.prepare(packed)), expected, rtol=1e-5, atol=1e-5)
    assert full.unpooled() is full


def test_the_unpooled_weights_add_up_to_the_pooled_ones() -> None:
    pooled = ControlAdapter(24, 8, pooled=True)
    blocks = pooled.unpooled().conv.weight.unflatten(1, (24, 64))
    torch.testing.assert_close(blocks.sum(2), pooled.conv.weight, rtol=1e-6, atol=0)
