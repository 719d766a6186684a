"""LoRA files equal PEFT: merged weights bit for bit, branches in the output, in every layout, several at once.

The reference is diffusers' Wan transformer with PEFT's layers. The files of other layouts are checked through
diffusers' own converters, so neither side of a comparison uses our name tables.
"""

import copy
import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import (
    _convert_musubi_wan_lora_to_diffusers,
    _convert_non_diffusers_wan_lora_to_diffusers,
)
from diffusers.loaders.lora_pipeline import WanLoraLoaderMixin
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from tests.parity.test_wan_diffusers import peer, random_world, small
from torch import Tensor, nn

from fw_model.checkpoints.keys import to_diffusers
from fw_model.lora import load_lora, loaded_loras, unload_lora
from fw_model.model.model import FantasyWorld

TARGETS = r"blocks\.\d+\.(attn[12]\.(to_[qkv]|to_out\.0|add_[kv]_proj)|ffn\.net\.(0\.proj|2))"
PEFT_NAMES = [
    ("attn1.to_out.0", "self_attn.o"),
    ("attn2.to_out.0", "cross_attn.o"),
    ("attn2.add_k_proj", "cross_attn.k_img"),
    ("attn2.add_v_proj", "cross_attn.v_img"),
    ("attn1.to_", "self_attn."),
    ("attn2.to_", "cross_attn."),
    ("ffn.net.0.proj", "ffn.0"),
    ("ffn.net.2", "ffn.2"),
]


def original(name: str) -> str:
    """The layer's name in Wan, VideoX-Fun and DiffSynth (wan.md, section 1.4)."""
    for diffusers, wan in PEFT_NAMES:
        name = name.replace(diffusers, wan)
    return name


def adapted(model: nn.Module, *, rank: int, alpha: float, seed: int, name: str = "default", **options) -> nn.Module:
    """The model with a random PEFT LoRA on every layer of its blocks."""
    config = LoraConfig(
        r=rank, lora_alpha=cast("int", alpha), target_modules=TARGETS, init_lora_weights=False, **options
    )
    inject_adapter_in_model(config, model, adapter_name=name)
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if f".{name}." in key:
                parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.1)
    return model.eval()


def factors(model: nn.Module, name: str = "default") -> dict[str, Tensor]:
    """blocks.0.attn1.to_q.lora_A.weight -> tensor."""
    return {key: value.clone() for key, value in get_peft_model_state_dict(model, adapter_name=name).items()}


def wan_state(state: dict[str, Tensor], prefix: str, down: str, up: str, alpha: float | None) -> dict[str, Tensor]:
    """A PEFT state under original names, with other names of the factors, and with or without an alpha per layer."""
    renamed = {}
    for key, value in state.items():
        layer, factor, _ = key.rsplit(".", 2)
        renamed[f"{prefix}{original(layer)}.{down if factor == 'lora_A' else up}.weight"] = value
        if alpha is not None:
            renamed[f"{prefix}{original(layer)}.alpha"] = torch.tensor(alpha)
    return renamed


def underscored(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """kohya's spelling: underscores up to the factor's name."""
    renamed = {}
    for key, value in state.items():
        cut = key.index(".lora_") if ".lora_" in key else key.index(".alpha")
        renamed[prefix + key[:cut].replace(".", "_") + key[cut:]] = value
    return renamed


def merged_weights(model: nn.Module, names: list[str]) -> dict[str, Tensor]:
    """PEFT's own merge, under diffusers' names."""
    merged = copy.deepcopy(model)
    for layer in merged.modules():
        if isinstance(layer, LoraLayer):
            layer.merge(adapter_names=names)
    return {key.replace(".base_layer", ""): value for key, value in merged.named_parameters() if ".lora_" not in key}


def assert_same_weights(world: FantasyWorld, expected: dict[str, Tensor], *, exact: bool = True) -> None:
    changed = 0
    for name, parameter in world.named_parameters():
        if world.parameter_group(name) == "video" and ".control_adapter." not in name:
            other = expected[to_diffusers(name, world.config.pcb_blocks)]
            if exact:
                assert torch.equal(parameter, other), name
            else:
                torch.testing.assert_close(parameter, other, rtol=1e-6, atol=1e-7)
            changed += 1
    assert changed > 40


def velocity(world: FantasyWorld, inputs: dict) -> Tensor:
    with torch.no_grad():
        return world(**inputs, cross_branch=False, predict_geometry=False).velocity


@pytest.fixture(scope="module")
def twins():
    """A world and its diffusers twin."""
    world = random_world(small("i2v"))
    return world, peer(world, None)


@pytest.fixture
def setting(twins):
    """Copies of the twins, and inputs of both."""
    g = torch.Generator().manual_seed(1)
    latents, y = torch.randn(1, 16, 3, 4, 6, generator=g), torch.randn(1, 20, 3, 4, 6, generator=g)
    context, clip = torch.randn(1, 512, 20, generator=g), torch.randn(1, 257, 28, generator=g)
    ours = {
        "latents": latents,
        "timestep": torch.tensor([437.5]),
        "context": context,
        "y": y,
        "clip_feature": clip,
    }
    theirs = {
        "hidden_states": torch.cat([latents, y], dim=1),
        "timestep": torch.tensor([437.5]),
        "encoder_hidden_states": context,
        "encoder_hidden_states_image": clip,
        "return_dict": False,
    }
    return *copy.deepcopy(twins), ours, theirs


def write_layout(layout: str, state: dict[str, Tensor], alpha: float, folder: Path) -> tuple[Path, float]:
    """The LoRA as a program of this layout writes it, and the scale that its rules give."""
    file = folder / "style.safetensors"
    scale = alpha / 4
    if layout == "diffusers":
        WanLoraLoaderMixin.save_lora_weights(folder, transformer_lora_layers={**state})
        return folder / "pytorch_lora_weights.safetensors", 1.0
    if layout == "diffusers with metadata":
        metadata = {"r": 4, "lora_alpha": alpha, "target_modules": ["to_q"]}
        WanLoraLoaderMixin.save_lora_weights(
            folder, transformer_lora_layers={**state}, transformer_lora_adapter_metadata=metadata
        )
        return folder / "pytorch_lora_weights.safetensors", scale
    if layout == "PEFT":
        save_file({f"base_model.model.{k}": v for k, v in state.items()}, folder / "adapter_model.safetensors")
        LoraConfig(r=4, lora_alpha=cast("int", alpha), target_modules=TARGETS).save_pretrained(str(folder))
        return folder, scale
    if layout == "PEFT rank-stabilized":
        save_file({f"base_model.model.{k}": v for k, v in state.items()}, folder / "adapter_model.safetensors")
        options = {"use_rslora": True, "lora_alpha": cast("int", alpha)}
        LoraConfig(r=4, target_modules=TARGETS, **options).save_pretrained(str(folder))
        return folder, alpha / math.sqrt(4)
    written, scale = {
        "kohya": (underscored(wan_state(state, "", "lora_down", "lora_up", alpha), "lora_unet_"), scale),
        "VideoX-Fun": (underscored(wan_state(state, "", "lora_down", "lora_up", alpha), "lora_unet__"), scale),
        "ComfyUI": (wan_state(state, "diffusion_model.", "lora_down", "lora_up", alpha), scale),
        "ComfyUI without alpha": (wan_state(state, "diffusion_model.", "lora_A", "lora_B", None), 1.0),
        "DiffSynth": (wan_state(state, "", "lora_A.default", "lora_B.default", None), 1.0),
        "DiffSynth pipe": (wan_state(state, "pipe.dit.", "lora_A.default", "lora_B.default", None), 1.0),
    }[layout]
    save_file(written, file)
    return file, scale


LAYOUTS = [
    "diffusers",
    "diffusers with metadata",
    "PEFT",
    "PEFT rank-stabilized",
    "kohya",
    "VideoX-Fun",
    "ComfyUI",
    "ComfyUI without alpha",
    "DiffSynth",
    "DiffSynth pipe",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_equals_peft(layout, setting, tmp_path):
    world, twin, ours, theirs = setting
    plain = velocity(world, ours)
    file, scale = write_layout(layout, factors(adapted(copy.deepcopy(twin), rank=4, alpha=4, seed=2)), 3.0, tmp_path)
    peft = adapted(twin, rank=4, alpha=4 * scale, seed=2)
    with torch.no_grad():
        expected = peft(**theirs)[0]
    assert (expected - plain).std() > 0.05 * plain.std()
    for merge in (False, True):
        loaded = load_lora(world, file, merge=merge)
        assert loaded.layout == layout.split(" ")[0]
        assert loaded.layers == 12 * 4
        torch.testing.assert_close(velocity(world, ours), expected, rtol=0, atol=5e-5 * float(expected.abs().max()))
        if not merge:
            unload_lora(world)
            assert torch.equal(velocity(world, ours), plain)
    assert_same_weights(world, merged_weights(peft, ["default"]))


@pytest.mark.parametrize("layout", ["kohya", "ComfyUI", "ComfyUI without alpha"])
def test_other_layouts_equal_what_diffusers_makes_of_them(layout, setting, tmp_path):
    """diffusers converts the very same file, and PEFT merges the result."""
    world, twin, _, _ = setting
    state = factors(adapted(copy.deepcopy(twin), rank=4, alpha=4, seed=5))
    file, _ = write_layout(layout, state, 2.0, tmp_path)
    convert = (
        _convert_musubi_wan_lora_to_diffusers if layout == "kohya" else _convert_non_diffusers_wan_lora_to_diffusers
    )
    converted = {key.removeprefix("transformer."): value for key, value in convert(load_file(file)).items()}
    peft = adapted(twin, rank=4, alpha=4, seed=9)
    set_peft_model_state_dict(peft, converted)
    load_lora(world, file, merge=True)
    assert_same_weights(world, merged_weights(peft, ["default"]), exact=False)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_several_at_once_with_scales(setting, tmp_path):
    world, twin, ours, theirs = setting
    plain = velocity(world, ours)
    peft = adapted(twin, rank=4, alpha=4, seed=2, name="first")
    peft = adapted(peft, rank=2, alpha=2, seed=3, name="second")
    for name in ("first", "second"):
        save_file({f"transformer.{k}": v for k, v in factors(peft, name).items()}, tmp_path / f"{name}.safetensors")
    scales = {"first": 0.75, "second": -0.5}
    for layer in peft.modules():
        if isinstance(layer, LoraLayer):
            layer.set_adapter(["first", "second"])
            for name, scale in scales.items():
                layer.set_scale(name, scale)
    for name, scale in scales.items():
        world.load_lora(tmp_path / f"{name}.safetensors", scale)
    with torch.no_grad():
        expected = peft(**theirs)[0]
    torch.testing.assert_close(velocity(world, ours), expected, rtol=0, atol=5e-5 * float(expected.abs().max()))
    assert [(one.name, one.scale) for one in loaded_loras(world)] == list(scales.items())
    both = velocity(world, ours)
    assert world.unload_lora("first") == ["first"]
    assert not torch.allclose(velocity(world, ours), both)
    world.unload_lora()
    assert torch.equal(velocity(world, ours), plain)
    for name, scale in scales.items():
        world.load_lora(tmp_path / f"{name}.safetensors", scale, merge=True)
    assert_same_weights(world, merged_weights(peft, ["first", "second"]))


def test_in_bfloat16_the_merge_is_rounded_once(setting, tmp_path):
    world, twin, _, _ = setting
    peft = adapted(twin, rank=4, alpha=4, seed=2)
    save_file({f"transformer.{k}": v for k, v in factors(peft).items()}, tmp_path / "a.safetensors")
    exact = merged_weights(peft, ["default"])
    base = {name: p.detach().bfloat16() for name, p in world.named_parameters()}
    world = world.bfloat16()
    load_lora(world, tmp_path / "a.safetensors", merge=True)
    layer, name = "blocks.2.attn1.to_q", "irg.1.video.self_attn.q.weight"
    module: Any = peft.get_submodule(layer)
    delta = module.lora_B["default"].weight @ module.lora_A["default"].weight
    assert torch.equal(world.get_parameter(name), (base[name].float() + delta).bfloat16())
    assert not torch.equal(world.get_parameter(name), exact[f"{layer}.weight"].bfloat16())
