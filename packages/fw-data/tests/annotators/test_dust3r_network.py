"""The pair network's own promises: features are reusable, sizes and names are checked, batches are independent."""

import pytest
import torch

from fw_data.annotators.dust3r.layers import rotary_code, rotate, token_positions
from fw_data.annotators.dust3r.network import Dust3rConfig, Dust3rNetwork, EncodedFrames, config_of

TINY = Dust3rConfig(
    encoder_dim=16,
    encoder_depth=2,
    encoder_heads=2,
    decoder_dim=8,
    decoder_depth=4,
    decoder_heads=1,
    dpt_dims=(4, 5, 6, 7),
    dpt_features=6,
    dpt_last=3,
)


@pytest.fixture(scope="module", params=["dpt", "linear"])
def network(request: pytest.FixtureRequest) -> Dust3rNetwork:
    torch.manual_seed(0)
    return Dust3rNetwork(Dust3rConfig(**{**vars(TINY), "head": request.param})).eval()


def test_pairs_of_cached_features_are_pairs_of_images(network: Dust3rNetwork) -> None:
    images = torch.rand(3, 3, 32, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        features = network.encode(images)
        first, second = [0, 2], [1, 0]
        batch = network.decode(
            EncodedFrames(features.tokens[first], features.grid), EncodedFrames(features.tokens[second], features.grid)
        )
        for row, (i, j) in enumerate(zip(first, second, strict=True)):
            alone = network(images[i : i + 1], images[j : j + 1])
            for together, single in zip(batch, alone, strict=True):
                torch.testing.assert_close(together[row : row + 1], single, rtol=2e-5, atol=2e-6)
    assert batch.points1.shape == (2, 32, 48, 3)
    assert (batch.confidence1 >= 1).all()
    assert (batch.confidence2 >= 1).all()
    assert not torch.allclose(batch.points1[0], batch.points2[0])


def test_the_two_views_may_differ_in_size(network: Dust3rNetwork) -> None:
    with torch.no_grad():
        out = network(torch.zeros(1, 3, 32, 48), torch.zeros(1, 3, 80, 16))
    assert out.points1.shape == (1, 32, 48, 3)
    assert out.points2.shape == (1, 80, 16, 3)


def test_sizes_are_read_from_shapes(network: Dust3rNetwork) -> None:
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    read = config_of(shapes)
    wanted = vars(network.config) | {"encoder_heads": 1, "decoder_heads": 1}
    if network.config.head == "linear":
        wanted |= {name: getattr(Dust3rConfig(), name) for name in ("dpt_dims", "dpt_features", "dpt_last")}
    assert vars(read) == wanted


def test_rotary_code_knows_only_differences() -> None:
    g = torch.Generator().manual_seed(2)
    q, k = torch.randn(1, 1, 6, 16, generator=g), torch.randn(1, 1, 6, 16, generator=g)
    positions = token_positions(2, 3)

    def scores(shift: int) -> torch.Tensor:
        code = rotary_code(positions + shift, 16)
        return rotate(q, code) @ rotate(k, code).mT

    torch.testing.assert_close(scores(0), scores(7), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores(0), q @ k.mT)


def test_wrong_sizes_are_refused(network: Dust3rNetwork) -> None:
    with pytest.raises(ValueError, match="16"):
        network.encode(torch.zeros(1, 3, 30, 48))
    with pytest.raises(ValueError, match=r"patch_embed\.proj\.weight"):
        config_of({"something.weight": (3, 3)})
    with pytest.raises(ValueError, match="4"):
        Dust3rConfig(encoder_dim=18, encoder_heads=3)
