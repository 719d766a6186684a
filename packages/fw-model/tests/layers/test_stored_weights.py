"""Weights stored in 8 bits against float64: rounding errors, memory, offloading, LoRA, what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fw_model.checkpoints.checkpoint import load_world
from fw_model.layers.offload import BlockOffloader
from fw_model.layers.stored_weights import StoredWeights, is_stored, quantize, store_weight
from fw_model.lora.apply import load_lora, unload_lora

BOTH = pytest.mark.parametrize(("kind", "relative"), [("fp8", 2**-4), ("int8", 0.5 / 127)])
"""Largest rounding error: of an fp8 number, half of its last of 3 bits; of an int8 number, half a step of its row."""


@BOTH
def test_a_row_is_rounded_to_its_own_scale(kind: StoredWeights, relative: float) -> None:
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 40, generator=g, dtype=torch.float64) * torch.tensor([1e-6, 1e-2, 1, 1e2, 1e5, 0])[:, None]
    values, scale = quantize(weight.float(), kind)
    assert values.element_size() == 1
    error = (values.double() * scale.double() - weight).abs()
    row = weight.abs().amax(1, keepdim=True)
    bound = relative * row if kind == "int8" else relative * weight.abs() + row * 2**-9 / 448
    assert bool((error <= bound * (1 + 1e-5)).all())


@BOTH
@torch.no_grad()
def test_a_layer_computes_with_the_rounded_weight_and_stays_small(kind: StoredWeights, relative: float) -> None:
    layer, x = nn.Linear(64, 32), torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    values, scale = quantize(layer.weight.data, kind)
    expected = x.double() @ (values.double() * scale.double()).T + layer.bias.double()
    exact = layer(x)
    store_weight(layer, kind)
    made = exact
    for _ in range(2):
        made = layer(x)
        torch.testing.assert_close(made.double(), expected, rtol=1e-5, atol=1e-5)
        assert layer.weight.element_size() == 1  # stored again after the call
    with torch.enable_grad(), pytest.raises(ValueError, match="for inference"):
        layer(x.requires_grad_())
    assert 0 < float((made - exact).abs().max()) < relative * 64


@BOTH
@torch.no_grad()
def test_a_model_loads_stored_and_runs_with_offloading(
    kind: StoredWeights, relative: float, micro, world, make_inputs, tmp_path: Path
) -> None:
    world.save_pretrained(tmp_path)
    loaded = load_world(tmp_path, weights=kind)
    blocks = [m for part in (loaded.pcb, loaded.irg) for m in part.modules() if isinstance(m, nn.Linear)]
    assert all(is_stored(layer) for layer in blocks)
    assert loaded.video.head.head.weight.dtype == torch.float32
    latents, timestep, inputs = make_inputs(micro)
    exact, rounded = (model(latents, timestep, **inputs).velocity for model in (world, loaded))
    change = float((rounded - exact).norm() / exact.norm())
    assert 0 < change < 3 * relative
    offloader = BlockOffloader("cpu")
    loaded.stream_blocks(offloader)
    with offloader.using("rest", *loaded.non_block_modules()):
        assert torch.equal(loaded(latents, timestep, **inputs).velocity, rounded)
    loaded.stream_blocks(None)
    with pytest.raises(ValueError, match="stored in 8 bits"):
        loaded.save_pretrained(tmp_path / "again")


@torch.no_grad()
def test_a_lora_is_computed_beside_stored_weights(micro, world, make_inputs, tmp_path: Path) -> None:
    world.save_pretrained(tmp_path)
    loaded = load_world(tmp_path, weights="int8")
    g = torch.Generator().manual_seed(2)
    dim, file = micro.video.dim, tmp_path / "one.safetensors"
    down, up = torch.randn(2, dim, generator=g), torch.randn(dim, 2, generator=g)
    key = "blocks.0.self_attn.q"
    save_file({f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}, file)
    place = "pcb.0.self_attn.q"
    layer, x = loaded.get_submodule(place), torch.randn(1, 3, dim, generator=g)
    before = layer(x)
    load_lora(loaded, file, 0.5)
    adapted = loaded.get_submodule(place)
    assert is_stored(adapted)
    torch.testing.assert_close(adapted(x) - before, 0.5 * (x @ down.T @ up.T), rtol=1e-4, atol=1e-4)
    unload_lora(loaded)
    assert torch.equal(loaded.get_submodule(place)(x), before)
    with pytest.raises(ValueError, match="stored in 8 bits"):
        load_lora(loaded, file, 0.5, merge=True)
