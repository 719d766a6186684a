"""The planned memory of a generation: weights by counting, and what each option changes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import preset
from fw_model.model.model import FantasyWorld
from fw_model.planning.generation import GenerationChoice, GenerationParts, GenerationPlan, plan_generation

CHOICE = GenerationChoice(frames=9, height=64, width=96, dtype=torch.float32)
CONFIG = preset("tiny")


def plan(**changes: object) -> GenerationPlan:
    parts = GenerationParts(autoencoder=BlockDCT(), text_encoder=1000)
    return plan_generation([CONFIG], parts, replace(CHOICE, **changes))


@pytest.fixture(scope="module")
def usual() -> GenerationPlan:
    return plan()


@pytest.fixture(scope="module")
def world() -> FantasyWorld:
    return FantasyWorld(CONFIG)


def nbytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def test_weights_are_those_of_the_model(usual: GenerationPlan, world: FantasyWorld) -> None:
    assert {labels["transformer"] for labels in usual.phases.values()} == {nbytes(world)}
    assert usual.bytes == max(sum(labels.values()) for labels in usual.phases.values())
    assert usual.phases["denoise"]["activations"] > 0


def test_eight_bits_take_a_byte_for_every_weight_of_the_blocks(usual: GenerationPlan, world: FantasyWorld) -> None:
    layers = [module for part in (world.pcb, world.irg) for module in part.modules() if isinstance(module, nn.Linear)]
    saved = sum(3 * layer.weight.numel() - 4 * layer.out_features for layer in layers)  # a float32 scale per row
    stored = plan(weights="int8").phases["denoise"]
    assert usual.phases["denoise"]["transformer"] - stored["transformer"] == saved
    wide = GenerationParts(autoencoder=BlockDCT(), text_encoder=0)
    narrow = replace(CHOICE, frames=1, height=16, width=16)  # so few tokens that a layer's weight decides the peak
    peaks = [
        plan_generation([CONFIG], wide, replace(narrow, weights=kind)).phases["denoise"] for kind in (None, "int8")
    ]
    assert peaks[1]["activations"] > peaks[0]["activations"]


def test_offloading_keeps_the_transformer_for_its_phase_and_two_blocks_of_it(world: FantasyWorld) -> None:
    model, block = (plan(offload=offload).phases for offload in ("model", "block"))
    assert model["denoise"]["transformer"] == nbytes(world)
    assert "transformer" not in model["decode"]
    around = sum(nbytes(part) for part in world.non_block_modules())
    blocks = [nbytes(one) for one in (*world.pcb, *world.irg)]
    pairs = [one + other for one, other in zip(blocks, [*blocks[1:], blocks[0]], strict=True)]
    assert block["denoise"]["transformer"] == around + max(pairs)


def test_two_experts_are_both_resident_unless_offloaded() -> None:
    parts = GenerationParts(autoencoder=BlockDCT(), text_encoder=0)
    both = plan_generation([CONFIG, CONFIG], parts, CHOICE).phases["denoise"]["transformer"]
    one = plan_generation([CONFIG, CONFIG], parts, replace(CHOICE, offload="model")).phases["denoise"]["transformer"]
    assert both == 2 * one


def test_processes_divide_activations(usual: GenerationPlan) -> None:
    alone = plan(guided=False).phases["denoise"]
    divided = plan(guided=False, processes=3).phases["denoise"]
    assert divided["activations"] < alone["activations"]
    assert divided["transformer"] == alone["transformer"]
    assert alone["conditions"] < usual.phases["denoise"]["conditions"]
    with pytest.raises(ValueError, match="heads"):
        plan(guided=False, processes=64)
