"""Loading the pair network: second names, a missing second decoder, other sizes, and errors that say what to do."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fw_data.annotators.checkpoints import WeightsMissing
from fw_data.annotators.dust3r.network import Dust3rConfig, Dust3rNetwork
from fw_data.annotators.dust3r.weights import load_dust3r, plain_names

SIZES = Dust3rConfig(
    encoder_dim=16,
    encoder_depth=2,
    encoder_heads=1,
    decoder_dim=8,
    decoder_depth=4,
    decoder_heads=1,
    dpt_dims=(4, 5, 6, 7),
    dpt_features=6,
    dpt_last=3,
)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Dust3rNetwork(SIZES).state_dict()


def released(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """With the second names that released files have."""
    again = {
        name.replace(f"layer{level}_rn", f"layer_rn.{level - 1}"): value.clone()
        for name, value in state.items()
        for level in range(1, 5)
        if f"layer{level}_rn" in name
    }
    assert len(again) == 8
    return state | again


def test_a_file_with_all_or_only_second_names_loads(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    both = released(state)
    only_second = {name: value for name, value in both.items() if not any(f"layer{k}_rn" in name for k in range(1, 5))}
    for number, content in enumerate((state, both, only_second)):
        save_file(content, tmp_path / f"{number}.safetensors")
        network = load_dust3r(tmp_path / f"{number}.safetensors")
        assert network.config == SIZES
        loaded = network.state_dict()
        assert set(loaded) == set(state)
        assert all(torch.equal(loaded[name], value) for name, value in state.items())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_a_missing_second_decoder_is_a_copy_of_the_first(state: dict[str, torch.Tensor]) -> None:
    one = {name: value for name, value in state.items() if not name.startswith("dec_blocks2.")}
    filled = plain_names(one)
    assert set(filled) == set(state)
    assert torch.equal(filled["dec_blocks2.3.mlp.fc1.weight"], state["dec_blocks.3.mlp.fc1.weight"])


def test_heads_may_be_named_beside_the_weights_and_half_precision_is_widened(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file({name: value.half() for name, value in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_heads": 4, "decoder_heads": 2, "other": "x"}))
    network = load_dust3r(tmp_path)
    assert (network.config.encoder_heads, network.config.decoder_heads) == (4, 2)
    assert network.mask_token.dtype == torch.float32
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32)).points1.isfinite().all()


def test_missing_and_wrong_weights_say_what_to_do(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"nowhere.*BaseDecoder_512_dpt.*CC BY-NC-SA 4\.0"):
        load_dust3r(tmp_path / "nowhere")
    with pytest.raises(WeightsMissing, match="naver/DUSt3R"):
        load_dust3r(release="224_linear")
    (tmp_path / "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth").write_bytes(b"x")
    with pytest.raises(WeightsMissing, match=r"pickle.*naver/DUSt3R"):
        load_dust3r(tmp_path / "DUSt3R_ViTLarge_BaseDecoder_512_dpt.pth")
    broken = dict(state)
    del broken["enc_norm.bias"]
    broken["dec_norm.weight"] = torch.zeros(9)
    save_file(broken, tmp_path / "model.safetensors")
    with pytest.raises(WeightsMissing, match=r"enc_norm\.bias.*2"):
        load_dust3r(tmp_path)
    with pytest.raises(ValueError, match="512_dpt"):
        load_dust3r(release="1024")
