"""LoRA files that do not fit are refused by layer; the others load, add up, and leave no trace. Parity with PEFT is in
tests/parity."""

import copy
import json
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from fw_model.layers.offload import BlockOffloader
from fw_model.lora import load_lora, loaded_loras, read_lora, save_lora, unload_lora
from fw_model.lora.layouts import lora_path
from fw_model.model.model import FantasyWorld


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.3


def pair(name: str, out: int = 48, into: int = 48, rank: int = 3) -> dict[str, torch.Tensor]:
    return {f"{name}.lora_A.weight": random(rank, into), f"{name}.lora_B.weight": random(out, rank, seed=1)}


@pytest.fixture
def fresh(world) -> FantasyWorld:
    return copy.deepcopy(world).eval()


@pytest.fixture
def write(tmp_path):
    def write(state: dict[str, torch.Tensor], name: str = "style.safetensors", **metadata: str):
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / name, metadata=metadata)
        return tmp_path / name

    return write


@pytest.fixture
def velocity(make_inputs, micro):
    latents, timestep, inputs = make_inputs(micro)

    def run(world: FantasyWorld) -> torch.Tensor:
        with torch.no_grad():
            return world(latents, timestep, **inputs, predict_geometry=False).velocity

    return run


def test_keys_that_match_nothing_are_listed(fresh, write):
    file = write({**pair("transformer.blocks.1.attn1.to_q"), **pair("transformer.blocks.77.attn1.to_q")})
    with pytest.raises(
        ValueError, match=r"style\.safetensors.*1 key \(blocks\.77\.attn1\.to_q\).*6 blocks of width 48"
    ):
        fresh.load_lora(file)
    kohya = write({k.replace("x", "lora_te_text_model_q", 1): v for k, v in pair("x").items()})
    with pytest.raises(ValueError, match="lora_te_text_model_q"):
        fresh.load_lora(kohya)
    with pytest.raises(ValueError, match=r"1 .*blocks\.0\.odd"):
        fresh.load_lora(write({"blocks.0.odd": torch.zeros(1), **pair("blocks.0.self_attn.q")}))
    assert not loaded_loras(fresh)


def test_wrong_shapes_name_the_layer_and_change_nothing(fresh, write, velocity):
    before = velocity(fresh)
    file = write({**pair("diffusion_model.blocks.0.self_attn.q"), **pair("diffusion_model.blocks.3.ffn.0", 128, 96)})
    with pytest.raises(ValueError, match=r"irg\.1\.video\.ffn\.0.*64 x 48.*128 x 96"):
        fresh.load_lora(file)
    assert torch.equal(velocity(fresh), before)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("lora_unet_blocks_0_self_attn_q.hada_w1_a", "LoHa"),
        ("lora_unet_blocks_0_self_attn_q.lokr_w1", "LoKr"),
        ("diffusion_model.blocks.0.self_attn.q.dora_scale", "DoRA"),
        ("base_model.model.blocks.0.self_attn.q.lora_magnitude_vector", "DoRA"),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_name(fresh, write, key, kind):
    with pytest.raises(ValueError, match=kind):
        fresh.load_lora(write({key: torch.zeros(2, 2), **pair("blocks.0.self_attn.q")}))


def test_damaged_files_are_refused(fresh, write, tmp_path):
    down, up = pair("blocks.0.self_attn.q").items()
    with pytest.raises(ValueError, match=r"blocks\.0\.self_attn\.q.*down"):
        fresh.load_lora(write(dict([down])))
    with pytest.raises(ValueError, match=r"rank 3.*rank 2"):
        fresh.load_lora(write({down[0]: down[1], up[0]: up[1][:, :2]}))
    with pytest.raises(ValueError, match=r"lora_B\.weight"):
        fresh.load_lora(write({down[0]: down[1], up[0]: up[1] / 0}))
    whole = write(dict([down, up])).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[:-100])
    with pytest.raises(ValueError, match=r"half\.safetensors"):
        fresh.load_lora(tmp_path / "half.safetensors")
    with pytest.raises(ValueError, match=r"absent\.safetensors"):
        fresh.load_lora(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=" 2 "):
        lora_path(tmp_path)
    wrong: list[tuple[Any, type[Exception]]] = [(float("nan"), ValueError), ("1", TypeError), (True, TypeError)]
    for scale, error in wrong:
        with pytest.raises(error, match="scale"):
            load_lora(fresh, write(dict([down, up])), scale)


@pytest.mark.parametrize("merge", [True, False])
def test_alpha_in_the_file_sets_the_scale(fresh, write, merge):
    layer = fresh.get_submodule("pcb.1.cross_attn.k")
    state = pair("lora_unet__blocks_1_cross_attn_k")
    state = {k.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): v for k, v in state.items()}
    down, up = state.values()
    x, before = random(5, 48, seed=4), layer.weight.clone()
    expected = layer(x) + 0.5 * (6.0 / 3) * x @ down.T @ up.T
    loaded = fresh.load_lora(
        write({**state, "lora_unet__blocks_1_cross_attn_k.alpha": torch.tensor(6.0)}), 0.5, merge=merge
    )
    assert (loaded.layout, loaded.layers, loaded.name, loaded.merged) == ("VideoX-Fun", 1, "style", merge)
    torch.testing.assert_close(fresh.get_submodule("pcb.1.cross_attn.k")(x), expected)
    assert torch.equal(fresh.get_parameter("pcb.1.cross_attn.k.weight"), before) != merge


def test_alpha_patterns_of_peft(write):
    options = {"transformer.r": 3, "transformer.lora_alpha": 6, "transformer.alpha_pattern": {"to_k": 12}}
    state = {**pair("transformer.blocks.0.attn1.to_q"), **pair("transformer.blocks.0.attn1.to_k")}
    read = read_lora(write(state, lora_adapter_metadata=json.dumps(options)))
    assert {name[-4:]: update.scale for name, update in read.layers.items()} == {"to_q": 2.0, "to_k": 4.0}


@pytest.mark.parametrize("merge", [True, False])
def test_full_differences_and_convolutions(fresh, write, velocity, merge):
    """Distilled LoRAs have differences of biases, norms and modulations too, and some adapt the patch embedding."""
    conv = fresh.get_parameter("video.patch_embedding.weight")
    state = {
        "diffusion_model.blocks.2.self_attn.q.diff_b": random(48, seed=1),
        "diffusion_model.blocks.0.norm3.diff": random(48, seed=2),
        "diffusion_model.blocks.5.diff_m": random(1, 6, 48, seed=3),
        "diffusion_model.patch_embedding.lora_down.weight": random(2, 36, 1, 2, 2, seed=5),
        "diffusion_model.patch_embedding.lora_up.weight": random(48, 2, 1, 1, 1, seed=6),
        **pair("diffusion_model.blocks.0.ffn.0", 64, 48),
    }
    update = (state["diffusion_model.patch_embedding.lora_up.weight"].flatten(1)
              @ state["diffusion_model.patch_embedding.lora_down.weight"].flatten(1)).reshape(conv.shape)  # fmt: skip
    wanted = {
        "irg.0.video.self_attn.q.bias": state["diffusion_model.blocks.2.self_attn.q.diff_b"],
        "pcb.0.norm3.weight": state["diffusion_model.blocks.0.norm3.diff"],
        "irg.3.video.modulation": state["diffusion_model.blocks.5.diff_m"],
        "video.patch_embedding.weight": update,
    }
    before = {name: fresh.get_parameter(name).detach().clone() for name in wanted}
    output = velocity(fresh)
    fresh.load_lora(write(state), 0.5, merge=merge)
    for name, difference in wanted.items():
        torch.testing.assert_close(fresh.get_parameter(name), before[name] + 0.5 * difference)
    if not merge:
        unload_lora(fresh)
        assert all(torch.equal(fresh.get_parameter(name), before[name]) for name in wanted)
        assert torch.equal(velocity(fresh), output)


def test_unmerged_beside_merged(fresh, write, velocity):
    """Removing the unmerged one leaves the merged one in place, in weights that both change."""
    first = write({"blocks.0.norm3.diff": random(48), **pair("blocks.0.self_attn.q")}, "first.safetensors")
    second = write({"blocks.0.norm3.diff": random(48, seed=8), **pair("blocks.0.self_attn.q")}, "second.safetensors")
    fresh.load_lora(first)
    fresh.load_lora(second, merge=True)
    with pytest.raises(ValueError, match="second"):
        fresh.unload_lora()
    with pytest.raises(ValueError, match=r"third.*first, second"):
        fresh.unload_lora("third")
    with pytest.raises(ValueError, match="first"):
        fresh.load_lora(first)
    fresh.unload_lora("first")
    after = velocity(fresh)
    assert [one.name for one in loaded_loras(fresh)] == ["second"]
    fresh.load_lora(first, name="again")
    assert not torch.equal(velocity(fresh), after)


def test_a_checkpoint_is_saved_without_branches_only_on_purpose(fresh, write, tmp_path):
    names = list(fresh.state_dict())
    fresh.load_lora(write(pair("blocks.0.self_attn.q")))
    assert list(fresh.state_dict()) == names
    with pytest.raises(ValueError, match="style"):
        fresh.save_pretrained(tmp_path / "out")
    fresh.unload_lora()
    assert type(fresh.get_submodule("pcb.0.self_attn.q")) is torch.nn.Linear
    fresh.load_lora(tmp_path / "style.safetensors", merge=True)
    fresh.save_pretrained(tmp_path / "out")
    again = FantasyWorld.from_pretrained(tmp_path / "out")
    assert torch.equal(again.get_parameter("pcb.0.self_attn.q.weight"), fresh.get_parameter("pcb.0.self_attn.q.weight"))


def test_branches_travel_with_streamed_blocks_and_change_precision(fresh, write, velocity):
    fresh.load_lora(write({**pair("blocks.0.self_attn.q"), **pair("blocks.4.cross_attn.o")}))
    expected = velocity(fresh)
    offloader = BlockOffloader("cpu")
    fresh.stream_blocks(offloader)
    assert torch.equal(velocity(fresh), expected)
    fresh.stream_blocks(None)
    half = velocity(fresh.bfloat16())
    assert fresh.get_submodule("pcb.0.self_attn.q").branches[0].down.dtype == torch.bfloat16
    assert (half - expected).std() < 0.1 * expected.std()


def test_a_model_without_weights_is_refused(micro, write):
    with torch.device("meta"):
        empty = FantasyWorld(micro)
    with pytest.raises(ValueError, match="load"):
        empty.load_lora(write(pair("blocks.0.self_attn.q")))


def test_what_we_write_is_what_we_read(fresh, tmp_path):
    """Our own files: diffusers' names over the whole backbone, the scale inside."""
    down, up = random(2, 48), random(48, 2, seed=1)
    file = save_lora(tmp_path, {"irg.1.video.cross_attn.o": (down, 2.0 * up)}, pcb_blocks=2)
    assert file.name == "pytorch_lora_weights.safetensors"
    read = read_lora(tmp_path)
    assert read.layout == "diffusers"
    assert list(read.layers) == ["blocks.3.attn2.to_out.0"]
    before = fresh.get_parameter("irg.1.video.cross_attn.o.weight").detach().clone()
    assert load_lora(fresh, file, merge=True).name == tmp_path.name
    torch.testing.assert_close(fresh.get_parameter("irg.1.video.cross_attn.o.weight"), before + 2.0 * up @ down)
