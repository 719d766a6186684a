"""LoRA: a new adapter has no effect, trains beside the cross-branch attention, and is merged into exported weights."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fw_model.lora.linear import LoraLinear
from fw_model.model.model import FantasyWorld
from fw_train.config.load import from_mapping
from fw_train.config.schema import LoraConfig, TrainConfig
from fw_train.engine.checkpoint import CheckpointStore, read
from fw_train.lora import add_adapters, merge_adapters
from fw_train.tasks.stages import choose_parameters, parameter_group
from fw_train.tasks.train import export_run, resume, train


@pytest.fixture
def stage1(mini: Path, dataset: Path, tmp_path: Path) -> Path:
    """A base and a stage 1 of one step."""
    tree = {
        "model": str(mini),
        "data": str(dataset),
        "steps": 1,
        "batch": 2,
        "clip": {"frames": 5, "height": 32, "width": 48, "validate_on": 1},
    }
    base = from_mapping({**tree, "out": str(tmp_path / "base")}, TrainConfig(stage="base"))
    train(base, quiet=True)
    train(from_mapping({"stage": "stage1", "init": str(base.out), "out": str(tmp_path / "s1")}, base), quiet=True)
    return tmp_path / "s1"


def stage2_config(stage1: Path, **changes: object) -> TrainConfig:
    from fw_train.tasks.train import read_run

    tree = {"stage": "stage2", "init": str(stage1), "out": str(stage1.parent / "s2"), "optim": {"lr": 0.01}, **changes}
    return from_mapping(tree, read_run(stage1))


def world_with(config: LoraConfig, mini: Path) -> FantasyWorld:
    from fw_train.model_bundle import world_config

    world = FantasyWorld(world_config(str(mini)))
    add_adapters(world, config, seed=3)
    return world


@torch.no_grad()
def disturb(module: nn.Module) -> None:
    """Give every adapter an effect."""
    for index, (name, parameter) in enumerate(module.named_parameters()):
        if name.endswith("lora_up"):
            parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(index))


def inputs(seed: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "latents": torch.randn(1, 16, 2, 4, 6, generator=g),
        "timestep": torch.tensor([400.0]),
        "context": torch.randn(1, 6, 12, generator=g),
        "y": torch.randn(1, 16, 2, 4, 6, generator=g),
    }


def test_an_adapter_starts_as_nothing_and_merges_into_the_same_layer() -> None:
    layer = nn.Linear(6, 4)
    adapted = LoraLinear(layer)
    adapted.add_trained(rank=2, scale=8.0, seed=1)
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(adapted(x), layer(x))
    assert adapted.lora_down is not None
    assert adapted.lora_up is not None
    with torch.no_grad():
        adapted.lora_up.fill_(0.3)
    expected = layer(x) + 8.0 * x @ adapted.lora_down.T @ adapted.lora_up.T
    torch.testing.assert_close(adapted(x), expected)
    assert not torch.allclose(adapted(x), layer(x))
    torch.testing.assert_close(adapted.merged()(x), adapted(x))
    update = adapted.merged().weight - layer.weight
    assert torch.linalg.matrix_rank(update, atol=1e-5) <= 2


def test_adapters_are_a_function_of_the_seed_and_of_the_layer(mini: Path) -> None:
    config = LoraConfig(rank=2)
    first, second = world_with(config, mini), world_with(config, mini)
    downs = {name: p for name, p in first.named_parameters() if name.endswith("lora_down")}
    assert all(torch.equal(p, second.get_parameter(name)) for name, p in downs.items())
    same_shape = [p for p in downs.values() if p.shape == (2, 24)]
    assert not torch.equal(same_shape[0], same_shape[1])
    other = FantasyWorld(first.config)
    add_adapters(other, config, seed=4)
    assert not any(torch.equal(p, other.get_parameter(name)) for name, p in downs.items())


@pytest.mark.parametrize(("targets", "layers"), [(("self_attn",), 4), (("ffn",), 2), (("self_attn", "cross_attn"), 8)])
def test_targets_name_the_parts_of_every_video_block(mini: Path, targets: tuple, layers: int) -> None:
    world = world_with(LoraConfig(rank=2, targets=targets), mini)
    adapted = [name for name, module in world.named_modules() if isinstance(module, LoraLinear)]
    assert len(adapted) == layers * len(world.video_blocks())
    assert not [name for name in adapted if "camera_adapter" in name or not set(targets) & set(name.split("."))]


def test_rank_zero_changes_nothing(mini: Path) -> None:
    world = world_with(LoraConfig(rank=0), mini)
    assert not [module for module in world.modules() if isinstance(module, LoraLinear)]


def test_a_new_world_with_adapters_is_the_world_without_them(mini: Path) -> None:
    adapted = world_with(LoraConfig(rank=2), mini)
    plain = FantasyWorld(adapted.config)
    with torch.no_grad():
        plain.load_state_dict({k: v for k, v in adapted.state_dict().items() if "lora_" not in k})
        assert torch.equal(adapted(**inputs()).geometry.depth, plain(**inputs()).geometry.depth)


@torch.no_grad()
def test_merging_a_world_changes_no_output_and_leaves_no_adapter(mini: Path) -> None:
    world = world_with(LoraConfig(rank=2), mini)
    disturb(world)
    world.video.head.head.weight.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    before = world(**inputs()).velocity
    names = merge_adapters(world)
    assert len(names) == 10 * 3
    torch.testing.assert_close(world(**inputs()).velocity, before, atol=1e-5, rtol=1e-5)
    assert [name for name, _ in world.named_parameters()] == [
        name for name, _ in FantasyWorld(world.config).named_parameters()
    ]


def test_stage2_trains_the_adapters_and_no_weight_of_the_video_blocks(mini: Path) -> None:
    world = world_with(LoraConfig(rank=2), mini)
    disturb(world)
    table = choose_parameters(world, "stage2")
    trained = {parameter_group(world, n) for n, p in world.named_parameters() if p.requires_grad}
    assert trained == {"cross_branch", "adapters"}
    assert [line for line in table if "pcb.lora" in line and "trained" in line]
    with torch.no_grad():
        world.video.head.head.weight.fill_(0.1)
    out = world(**inputs())
    out.velocity.square().mean().backward()
    got = {name for name, p in world.named_parameters() if p.grad is not None and p.grad.any()}
    adapters = {name for name, _ in world.named_parameters() if "lora_" in name}
    assert adapters <= got
    assert not [name for name in got if parameter_group(world, name) == "video"]


def test_a_run_with_adapters_saves_resumes_and_exports_them_merged(stage1: Path) -> None:
    config = stage2_config(stage1, steps=2, lora={"rank": 2, "alpha": 4.0}, every={"checkpoint": 1})
    outcome = train(config, quiet=True)
    assert config.out is not None
    found = CheckpointStore(config.out / "checkpoints").latest()
    assert found is not None
    saved_all = read(found.path).tensors
    saved = saved_all["model"]
    assert [name for name in saved if name.endswith("lora_up") and saved[name].any()]
    assert outcome.export is not None
    first_export = (outcome.export / "model.safetensors").read_bytes()
    loaded = FantasyWorld.from_pretrained(outcome.export)
    before = FantasyWorld.from_pretrained(stage1 / "export")
    down, up = (saved[f"pcb.0.self_attn.q.lora_{side}"] for side in ("down", "up"))
    moved = loaded.get_parameter("pcb.0.self_attn.q.weight") - before.get_parameter("pcb.0.self_attn.q.weight")
    torch.testing.assert_close(moved, 2.0 * up @ down, atol=1e-6, rtol=1e-4)
    # the adapter alone, on the weights before: diffusers' layout, and the same model
    file = outcome.export / "lora" / "pytorch_lora_weights.safetensors"
    assert "transformer.blocks.0.attn1.to_q.lora_A.weight" in load_file(file)
    applied = before.load_lora(file, merge=True)
    assert (applied.layout, applied.layers, applied.name) == ("diffusers", 10 * len(before.video_blocks()), "lora")
    for name, parameter in loaded.named_parameters():
        if loaded.parameter_group(name) == "video":
            torch.testing.assert_close(before.get_parameter(name), parameter, atol=1e-7, rtol=1e-6)
    again = FantasyWorld.from_pretrained(export_run(config.out, config.out.parent / "again"))
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in loaded.named_parameters())
    longer = resume(config.out, lambda c: from_mapping({"steps": 3}, c), quiet=True)
    assert longer.result.step == 3
    # the same steps with weights and activations in host memory from the second one on
    begun = from_mapping({"steps": 1, "out": str(config.out.parent / "host")}, config)
    train(begun, quiet=True)
    offload = {"offload_blocks": 3, "offload_activations": True, "activation_checkpointing": "full"}
    assert begun.out is not None
    ended = resume(begun.out, lambda c: from_mapping({"steps": 2, "compute": offload}, c), quiet=True)
    assert ended.export is not None
    for stem, tensors in saved_all.items():
        again = read(ended.result.checkpoint).tensors[stem]
        assert all(torch.equal(value, again[name]) for name, value in tensors.items()), stem
    assert (ended.export / "model.safetensors").read_bytes() == first_export
