"""Weights that come and go: the same results, few of them there at a time, and every original back in its place."""

import dataclasses
import gc
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fw_geometry import make_trajectory
from fw_model.autoencoders.wan_vae import WanVAE
from fw_model.encoders.hashing import HashTextEncoder
from fw_model.layers.offload import BlockOffloader, BlockStream, check_offload, flatten
from fw_model.layers.recompute import HostActivations, recomputed
from fw_model.pipeline.pipeline import WorldPipeline
from fw_model.pipeline.placement import Placement
from fw_model.pipeline.settings import Sampling
from fw_model.sampling.flow import FlowSchedule

FRAMES, HEIGHT, WIDTH = 5, 32, 48


@pytest.fixture(scope="module")
def config(micro):
    video = dataclasses.replace(micro.video, in_dim=32, clip_dim=None, blocks=5)
    camera = dataclasses.replace(micro.camera, downscale=8)
    geometry = dataclasses.replace(micro.geometry, dpt_taps=(2, 1, 1, 0))
    return dataclasses.replace(micro, video=video, camera=camera, geometry=geometry)


@pytest.fixture(scope="module")
def run():
    """The world of a short generation."""
    pixels = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    path = make_trajectory("dolly", FRAMES, width=WIDTH, height=HEIGHT)

    def make(pipe: WorldPipeline, **options: Any) -> Any:
        *_, last = pipe.generate(Image.fromarray(pixels), "a red room", path, **options)
        return last.world

    return make


def _pipe(world, high=None, **options: Any) -> WorldPipeline:
    text = HashTextEncoder(text_len=7, text_dim=12)
    return WorldPipeline(
        world, WanVAE.small(), text, high_noise=high, sampling=Sampling(num_inference_steps=2), **options
    )


def _nbytes(*modules: nn.Module) -> int:
    tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
    return sum(t.numel() * t.element_size() for t in tensors)


def _addresses(module: nn.Module) -> list[int]:
    return [t.data_ptr() for t in (*module.parameters(), *module.buffers())]


def _most(log, prefix: str) -> int:
    """Most modules of this name that were in at a time."""
    here, most = 0, 0
    for move in log:
        if move.name.startswith(prefix):
            here += 1 if move.direction == "in" else -1
            most = max(most, here)
    assert here == 0
    return most


def test_a_module_works_on_copies_and_gets_its_originals_back():
    layer, offloader = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval(), BlockOffloader("cpu")
    layer.append(layer[0])  # the same parameters under two names
    homes, x = _addresses(layer), torch.ones(2, 3)
    with torch.no_grad():
        expected = layer[:2](x)
        with offloader.using("layer", layer):
            assert not set(_addresses(layer)) & set(homes)
            assert torch.equal(layer[:2](x), expected)
            assert layer[0].weight is layer[2].weight
            assert offloader.resident == ["layer"]
            assert offloader.resident_bytes == _nbytes(layer)
            with offloader.using("again", layer):  # what is there is not brought twice
                pass
            assert offloader.resident == ["layer"]
    assert _addresses(layer) == homes
    assert offloader.resident_bytes == 0
    assert offloader.peak_bytes == _nbytes(layer)
    assert [move.direction for move in offloader.log] == ["in", "out"]


def test_originals_come_back_after_an_error():
    layer, offloader = nn.Linear(2, 2), BlockOffloader("cpu")
    homes = _addresses(layer)
    with pytest.raises(RuntimeError, match="inside"), offloader.using("layer", layer):
        raise RuntimeError("inside")
    assert _addresses(layer) == homes
    assert offloader.resident == []


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_blocks_pass_one_after_the_other(ahead):
    blocks = [nn.Linear(4, 4) for _ in range(5)]
    offloader = BlockOffloader("cpu")
    stream = BlockStream(offloader, blocks, ahead=ahead)
    x = expected = torch.ones(1, 4)
    with torch.no_grad():
        for _ in range(2):
            for i, block in enumerate(blocks):
                with stream.using(block):
                    first = not offloader.log or len(offloader.log) == 1
                    here = [f"block {(i + j) % 5}" for j in range(1 if first else max(ahead, 1))]
                    assert sorted(offloader.resident) == sorted(here)
                    x = block(x)
        stream.clear()
        for block in blocks * 2:
            expected = block(expected)
    assert torch.equal(x, expected)
    assert _most(offloader.log, "block") == ahead + 1
    assert offloader.peak_bytes == (ahead + 1) * _nbytes(blocks[0])
    brought = [move.name for move in offloader.log if move.direction == "in"]
    assert len(brought) == 10 + ahead  # each once per pass, and those fetched at the end


class Runtime:
    """A stand-in for the CUDA runtime that counts page-locked bytes."""

    def __init__(self, status: int = 0) -> None:
        self.status, self.locked = status, {}

    def cudaHostRegister(self, pointer: int, nbytes: int, _flags: int) -> int:
        self.locked[pointer] = nbytes
        return self.status

    def cudaHostUnregister(self, pointer: int) -> int:
        del self.locked[pointer]
        return 0


def test_a_block_is_page_locked_as_one_buffer_of_its_size(monkeypatch):
    runtime = Runtime()
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    layer = nn.Sequential(nn.Linear(300, 70), nn.BatchNorm1d(70), nn.Linear(70, 3).bfloat16()).eval()
    layer.append(layer[0])  # the same parameters under two names
    before, x = {name: value.clone() for name, value in layer.state_dict().items()}, torch.ones(2, 300)
    size = flatten(layer)
    assert list(runtime.locked.values()) == [size]
    tensors = {t.data_ptr(): t for t in (*layer.parameters(), *layer.buffers())}.values()
    assert _nbytes(layer[0], layer[1], layer[2]) <= size < _nbytes(layer[0], layer[1], layer[2]) + 256 * len(tensors)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert flatten(layer) == size  # once
    assert len(runtime.locked) == 1
    offloader, homes = BlockOffloader("cpu"), _addresses(layer)
    with torch.no_grad(), offloader.using("layer", layer):
        here = _addresses(layer)
        assert not set(here) & set(homes)
        assert max(here) - min(here) < size  # one copy of the whole buffer
        assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
        assert layer[:2](x).shape == (2, 70)
    assert _addresses(layer) == homes
    del layer, tensors
    gc.collect()
    assert runtime.locked == {}


def test_memory_that_cannot_be_locked_is_reported(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "cudart", lambda: Runtime(status=2))
    layer = nn.Linear(3, 3)
    flatten(layer)
    assert "page-locked" in caplog.text
    assert layer(torch.ones(1, 3)).shape == (1, 3)


class Event:
    """A CUDA event that notes when the host waits for it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def synchronize(self) -> None:
        self.log.append(f"wait {self.name}")


def test_the_next_copy_waits_for_the_memory_of_the_block_before(monkeypatch):
    """On CUDA the host runs ahead; a copy that starts too early needs memory for a further block."""
    blocks, log = [nn.Linear(2, 2) for _ in range(4)], []
    offloader = BlockOffloader("cpu")
    release, fetch = offloader.release, offloader.fetch

    def released(module):
        if module in offloader._resident:
            release(module)
            offloader._released.append(Event(f"block {blocks.index(module)}", log))

    def fetched(name, module):
        if module not in offloader._resident:
            log.append(f"fetch {name}")
        fetch(name, module)

    monkeypatch.setattr(offloader, "release", released)
    monkeypatch.setattr(offloader, "fetch", fetched)
    stream = BlockStream(offloader, blocks, ahead=1)
    for i, block in enumerate(blocks):
        with stream.using(block):
            log.append(f"compute {i}")
    wanted = ["fetch block 0", "compute 0", "fetch block 1", "compute 1", "wait block 0", "fetch block 2", "compute 2"]
    assert log[:7] == wanted


def test_results_do_not_depend_on_offloading(config, make_world, run):
    world = make_world(config)
    base = run(_pipe(world))
    for offload in ("model", "block"):
        pipe = _pipe(world, offload=offload)
        homes = _addresses(world)
        made, offloader = run(pipe), pipe.placement.offloader
        for name in ("video", "depth", "points"):
            assert np.array_equal(getattr(made, name), getattr(base, name)), (offload, name)
        assert _addresses(world) == homes
        assert offloader.resident == []
        assert isinstance(pipe.autoencoder, WanVAE)
        vae, blocks = _nbytes(pipe.autoencoder), [*world.pcb, *world.irg]
        non_block_modules = _nbytes(*world.non_block_modules())
        assert _nbytes(world) == non_block_modules + _nbytes(*blocks)
        largest = sum(sorted(_nbytes(b) for b in blocks)[-2:])
        assert offloader.peak_bytes <= max(vae, _nbytes(world) if offload == "model" else non_block_modules + largest)
        assert _most(offloader.log, "block") == (2 if offload == "block" else 0)
        assert [m.direction for m in offloader.log if m.name == "autoencoder"] == ["in", "out"] * 2  # encode, decode


def test_two_experts_are_swapped_once(config, make_world, run):
    low = make_world(dataclasses.replace(config, name="low", timestep_range=(0.0, 900.0)))
    high = make_world(dataclasses.replace(config, name="high", timestep_range=(900.0, 1000.0)))
    schedule = FlowSchedule(steps=4)
    assert 1 <= int((schedule.timesteps > 900).sum()) <= 3
    base = run(_pipe(low, high), num_inference_steps=4, guidance_scale=1.0)
    pipe = _pipe(low, high, offload="model")
    made = run(pipe, num_inference_steps=4, guidance_scale=1.0)
    assert np.array_equal(made.video, base.video)
    moves = [(m.name, m.direction) for m in pipe.placement.offloader.log if m.name.startswith("transformer")]
    assert moves == [
        ("transformer high", "in"), ("transformer high", "out"), ("transformer low", "in"), ("transformer low", "out")
    ]  # fmt: skip
    assert pipe.placement.offloader.peak_bytes == max(_nbytes(low), _nbytes(high))


def test_stopping_early_takes_everything_away(config, make_world):
    world = make_world(config)
    pipe = _pipe(world, offload="block")
    homes = _addresses(world)
    path = make_trajectory("still", FRAMES, width=WIDTH, height=HEIGHT)
    reports = pipe.generate(
        np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8), "", path, num_inference_steps=9, guidance_scale=1.0
    )
    for report in reports:
        if report.stage == "denoise":
            assert pipe.placement.offloader.resident
            break
    reports.close()
    assert pipe.placement.offloader.resident == []
    assert _addresses(world) == homes
    world.stream_blocks(None)


def test_encoders_come_and_go():
    class Encoder:
        places: list[str]

        def __init__(self) -> None:
            self.places = []

        def to(self, device: Any) -> None:
            self.places.append(str(device))

    there, stays = Encoder(), Encoder()
    with Placement("model", "meta").encoder(there):
        assert there.places == ["meta"]
    assert there.places == ["meta", "cpu"]
    with Placement("none", "meta").encoder(stays):
        pass
    assert set(stays.places) == {"meta"}


def test_streaming_is_for_inference(config, make_world, make_inputs):
    world = make_world(config)
    latents, timestep, inputs = make_inputs(config)
    world.stream_blocks(BlockOffloader("cpu"))
    with pytest.raises(ValueError, match=r"torch\.no_grad"):
        world(latents, timestep, **inputs)
    world.stream_blocks(None)


class Adapted(nn.Module):
    """A frozen layer and a trained one beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.trained = nn.Linear(6, 6).requires_grad_(False), nn.Linear(6, 6, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.frozen(x)) + self.trained(x)


@pytest.mark.parametrize(("kind", "locked"), [("full", False), ("selective", False), ("full", True)])
def test_frozen_weights_pass_forward_and_backward_and_gradients_are_the_same(kind, locked, monkeypatch):
    blocks, offloader = [Adapted() for _ in range(4)], BlockOffloader("cpu", frozen_only=True)
    x = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    if locked:
        monkeypatch.setattr(torch.cuda, "cudart", Runtime)
        trained = blocks[0].trained.weight.data_ptr()
        assert [flatten(block, frozen_only=True) for block in blocks] == [2 * 256] * 4
        assert blocks[0].trained.weight.data_ptr() == trained
    homes, frozen = [_addresses(block) for block in blocks], _nbytes(blocks[0].frozen)

    def gradients(stream: BlockStream | None, inputs: HostActivations | None = None) -> list[torch.Tensor | None]:
        y = x.grad = None
        y = x * 1
        for block in blocks:
            block.zero_grad()
            passes = None if stream is None else partial(stream.passes, block)
            y = recomputed(block, y, kind=kind, inputs=inputs, passes=passes)
        assert stream is None or offloader.resident == []  # nothing is there while heads and loss are computed
        y.square().mean().backward()
        return [x.grad, *(block.trained.weight.grad for block in blocks)]

    expected, inputs = gradients(None), HostActivations()
    made = gradients(BlockStream(offloader, blocks, ahead=1), inputs)
    for one, two in zip(expected, made, strict=True):
        assert one is not None
        assert two is not None
        assert torch.equal(one, two)
    assert [_addresses(block) for block in blocks] == homes
    assert [m.name for m in offloader.log if m.direction == "in"] == [f"block {i}" for i in (0, 1, 2, 3, 3, 2, 1, 0)]
    assert {m.nbytes for m in offloader.log} == {frozen}
    assert (offloader.resident, offloader.peak_bytes) == ([], 2 * frozen)
    assert (inputs.packed, inputs.unpacked) == (4, 4)


def test_backward_the_next_copy_waits_for_the_gradients_of_the_block_before(monkeypatch):
    blocks, log = [nn.Linear(2, 2).requires_grad_(False) for _ in range(4)], []
    offloader = BlockOffloader("cpu", frozen_only=True)
    fetch, marks = offloader.fetch, iter(range(99))
    monkeypatch.setattr(offloader, "mark", lambda: offloader._released.append(Event(str(next(marks)), log)))

    def fetched(name, module):
        if module not in offloader._resident:
            log.append(f"fetch {name}")
        fetch(name, module)

    monkeypatch.setattr(offloader, "fetch", fetched)
    stream = BlockStream(offloader, blocks, ahead=1)
    for i in (3, 2, 1):
        with stream.using(blocks[i], backward=True):
            log.append(f"recompute {i}")
        log.append(f"gradients {i}")
    # marks: 0 start, 1 release of 3 (its recomputation), 2 start of 2: the gradients of 3 are queued before it
    assert log[:4] == ["fetch block 3", "recompute 3", "wait 0", "fetch block 2"]
    assert log[4:9] == ["gradients 3", "recompute 2", "wait 1", "wait 2", "fetch block 1"]


def test_streaming_with_gradients_needs_frozen_weights_and_recomputation(config, make_world, make_inputs):
    world = make_world(config).requires_grad_(False)
    latents, timestep, inputs = make_inputs(config)
    world.stream_blocks(BlockOffloader("cpu", frozen_only=True))
    with pytest.raises(ValueError, match="set_checkpointing"):
        world(latents, timestep, **inputs)
    world.set_checkpointing("full")
    world(latents, timestep, **inputs)
    world.stream_blocks(BlockOffloader("cpu"))
    with pytest.raises(ValueError, match="frozen_only"):
        world(latents, timestep, **inputs)


def test_unknown_ways_are_refused():
    with pytest.raises(ValueError, match=r"'disk'.*none, model, block"):
        check_offload("disk")
