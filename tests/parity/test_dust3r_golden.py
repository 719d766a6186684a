"""The pair network against numbers of the published architecture: two tiny networks with random weights, in float32.

The recorded networks lie beside the repository; the names of the released checkpoints and the rotary code are here.
"""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.parity.golden import relative_error

from fw_data.annotators.dust3r.heads import DptHead, LinearHead, map_output
from fw_data.annotators.dust3r.layers import rotary_code, rotate, token_positions
from fw_data.annotators.dust3r.network import Dust3rConfig, Dust3rNetwork, config_of

DATA = Path(__file__).parent / "data"
RECORDED = Path(__file__).resolve().parents[3] / "shared" / "reference" / "golden_dust3r"
TARGET = 6e-6
"""Largest error over a tensor's largest value; the smallest mistake in the architecture is above 8e-5."""
SETS = {"T1": ("landscape", "portrait", "mixed"), "T2": ("square", "rect")}
PARAMETERS = {"512_dpt": (1009, 571_171_208), "224_linear": (877, 532_342_784)}

needs_recording = pytest.mark.skipif(
    not RECORDED.is_dir(), reason="the recorded networks in ../shared/reference are not part of the repository"
)


def recorded(name: str) -> tuple[Dust3rNetwork, dict[str, torch.Tensor]]:
    config = json.loads((RECORDED / name / "config.json").read_text())["config"]
    weights = {key: value.float() for key, value in load_file(RECORDED / name / "weights.safetensors").items()}
    sizes = vars(config_of({key: tuple(value.shape) for key, value in weights.items()}))
    sizes |= {"encoder_heads": config["enc_num_heads"], "decoder_heads": config["dec_num_heads"]}
    network = Dust3rNetwork(Dust3rConfig(**sizes))
    network.load_state_dict(weights)
    return network.eval(), load_file(RECORDED / name / "intermediates.safetensors")


@needs_recording
@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in SETS.items() for case in cases])
def test_recorded_network(name: str, case: str) -> None:
    network, steps = recorded(name)
    inputs, outputs = (load_file(RECORDED / name / f"{part}.safetensors") for part in ("inputs", "outputs"))
    found: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        views = [network.encode(inputs[f"{case}.view{v}.img"]) for v in (1, 2)]
        tokens = network.decoder_tokens(*views)
        heads = (network.downstream_head1, network.downstream_head2)
        for number, (view, lists, head) in enumerate(zip(views, tokens, heads, strict=True), start=1):
            prefix = f"{case}.view{number}."
            found[prefix + "enc_tokens"] = view.tokens
            found[prefix + "pos"] = token_positions(*view.grid)[None]
            found |= {f"{prefix}dec{index}": lists[index] for index in range(1, len(lists))}
            found[prefix + "raw"] = head(lists, view.grid)
            if isinstance(head, LinearHead):
                found[prefix + "proj"] = head.proj(lists[-1])
            elif isinstance(head, DptHead):
                maps = [lists[hook].mT.unflatten(-1, view.grid) for hook in head.hooks]
                levels = [change(one) for change, one in zip(head.dpt.act_postprocess, maps, strict=True)]
                for index, level in enumerate(levels, start=1):
                    found[f"{prefix}dpt.level{index}"] = level
                    found[f"{prefix}dpt.level{index}_rn"] = head.dpt.scratch.get_submodule(f"layer{index}_rn")(level)
        result = network(inputs[f"{case}.view1.img"], inputs[f"{case}.view2.img"])
        assert torch.equal(result.points1, map_output(found[f"{case}.view1.raw"])[0])
    theirs = dict(zip(("pts3d", "conf1", "pts3d_in_other_view", "conf2"), result, strict=True))
    errors = {key: relative_error(value, outputs[f"{case}.{key}"]) for key, value in theirs.items()}
    compared = {key: value for key, value in steps.items() if key.startswith(f"{case}.") and ".path" not in key}
    assert len(compared) >= 12
    errors |= {key: relative_error(found[key], value) for key, value in compared.items()}
    assert {key: error for key, error in errors.items() if not error <= TARGET} == {}


def test_rotary_code() -> None:
    golden = load_file(DATA / "dust3r_rope.safetensors")
    code = rotary_code(golden["rope.positions"][0], golden["rope.tokens"].shape[-1])
    assert relative_error(rotate(golden["rope.tokens"], code), golden["rope.out"]) <= TARGET


@pytest.mark.parametrize("name", PARAMETERS)
def test_names_and_shapes_of_released_checkpoints(name: str) -> None:
    lines = (DATA / f"dust3r_keys_{name}.txt").read_text().splitlines()
    shapes = {
        key: tuple(int(size) for size in re.findall(r"\d+", shape))
        for key, shape in (line.split(" ", 1) for line in lines)
    }
    keys, parameters = PARAMETERS[name]
    assert len(shapes) == keys
    aliases = {key for key in shapes if ".scratch.layer_rn." in key}
    with torch.device("meta"):
        network = Dust3rNetwork(config_of(shapes))
    ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert ours == {key: shape for key, shape in shapes.items() if key not in aliases}
    assert sum(value.numel() for value in network.parameters()) == parameters
    assert (network.config.encoder_heads, network.config.decoder_heads) == (16, 12)
