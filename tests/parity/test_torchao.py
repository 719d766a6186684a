"""int8 weights of torchao (`quantize_`): they equal ours up to rounding, and block offloading gives the same world."""

import numpy as np
import torch
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from fw_geometry import make_trajectory
from fw_model.autoencoders.block_dct import BlockDCT
from fw_model.config import preset
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.layers.offload import Offload
from fw_model.layers.stored_weights import store_weight
from fw_model.model.model import FantasyWorld
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.result import World


def is_quantized(module: torch.nn.Module, name: str) -> bool:
    """All linear layers but those of camera adapters, as docs/one-24-gb-card.md shows."""
    return isinstance(module, torch.nn.Linear) and "camera_adapter" not in name


def quantized(offload: Offload) -> WorldPipeline:
    world = FantasyWorld(preset("tiny"), seed=0).to(torch.bfloat16)
    for block in (*world.pcb, *world.irg):
        quantize_(block, Int8WeightOnlyConfig(), filter_fn=is_quantized)
    return WorldPipeline(world, BlockDCT(), HashTextEncoder(), offload=offload)


def generated(pipeline: WorldPipeline) -> World:
    path = make_trajectory("dolly", 5, width=48, height=32)
    *_, last = pipeline.generate(np.full((32, 48, 3), 90, np.uint8), "a room", path, num_inference_steps=2)
    assert last.world is not None
    return last.world


def test_torchao_stores_what_we_store() -> None:
    layer = torch.nn.Linear(64, 48, bias=False, dtype=torch.bfloat16)
    ours = torch.nn.Linear(64, 48, bias=False, dtype=torch.bfloat16)
    ours.load_state_dict(layer.state_dict())
    store_weight(ours, "int8")
    quantize_(layer, Int8WeightOnlyConfig())
    stored = ours.weight.float() * ours.get_buffer("weight_scale")
    theirs = layer.weight.dequantize().float()
    assert float((stored - theirs).abs().max()) < 0.01 * float(stored.abs().max())


def test_blocks_with_its_weights_are_streamed() -> None:
    resident, streamed = generated(quantized("none")), generated(quantized("block"))
    assert np.array_equal(resident.video, streamed.video)
    assert np.array_equal(resident.depth, streamed.depth)
