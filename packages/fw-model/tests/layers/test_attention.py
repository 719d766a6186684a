"""Attention against its formula, and the choice of a kernel."""

import subprocess
import sys
import types
from typing import Any

import pytest
import torch

import fw_model.layers.attention as module
from fw_model.layers.attention import Backend, attention, available_backends, backends_to_try, check_backend


def tensors(dtype=torch.float32, device="cpu"):
    g = torch.Generator().manual_seed(0)
    shapes = ((2, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8))
    return [torch.randn(shape, generator=g).to(device, dtype) for shape in shapes]


@pytest.mark.parametrize("backend", ["auto", "sdpa"])
def test_formula(backend: Backend):
    q, k, v = tensors()
    logits = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) / 8**0.5
    expected = torch.einsum("bhqk,bkhd->bqhd", logits.softmax(-1), v.double())
    assert (attention(q, k, v, backend) - expected).abs().max() < 1e-6


def test_unknown_and_absent_backends_are_named(world):
    q, k, v = tensors()
    with pytest.raises(ValueError, match=r"fast.*sdpa"):
        check_backend("fast")
    assert available_backends()[0] == "sdpa"
    others: list[Backend] = ["flash2", "flash3", "flash4", "xformers"]
    for name in set(others) - set(available_backends()):
        with pytest.raises(ValueError, match=rf"{name}.*sdpa"):
            attention(q, k, v, name)
        with pytest.raises(ValueError, match=name):
            world.set_attention_backend(name)


@pytest.fixture
def fake_flash(monkeypatch):
    """Stand-ins for the flash packages: they note their call and compute with SDPA."""
    calls: list[str] = []

    def kernel(name, as_tuple):
        def run(q, k, v):
            calls.append(name)
            out = module._sdpa(q, k, v)
            return (out, None) if as_tuple else out

        return run

    fakes = {
        "flash_attn": types.SimpleNamespace(flash_attn_func=kernel("flash2", False)),
        "flash_attn_interface": types.SimpleNamespace(flash_attn_func=kernel("flash3", True)),
        "flash_attn.cute": types.SimpleNamespace(flash_attn_func=kernel("flash4", True)),
        "xformers.ops": types.SimpleNamespace(memory_efficient_attention=kernel("xformers", False)),
    }
    monkeypatch.setattr(module, "_installed", lambda: ("sdpa", "flash2", "flash3", "flash4", "xformers"))
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(module, "_chosen", {})
    monkeypatch.setattr(module, "_warned", set())
    loaders: list[Any] = list(module._KERNELS.values())
    for load in loaders:
        load.cache_clear()
    yield calls
    for load in loaders:
        load.cache_clear()


@pytest.fixture
def as_gpu(monkeypatch):
    """Take CPU tensors for those of a GPU of compute capability 9.0."""
    monkeypatch.setattr(module, "_on_gpu", lambda _q: True)
    monkeypatch.setattr(module, "backends_to_try", lambda *_: ["flash3", "flash2", "sdpa"])


def test_named_kernels_refuse_what_they_cannot_run(fake_flash):
    assert available_backends() == ["sdpa", "flash2", "flash3", "flash4", "xformers"]
    q, k, v = tensors()
    names: list[Backend] = ["flash2", "flash3", "flash4", "xformers"]
    for name in names:
        with pytest.raises(ValueError, match="GPU"):
            attention(q, k, v, name)
    attention(q, k, v)
    assert fake_flash == []  # auto stays with SDPA on a CPU


@pytest.mark.parametrize(
    ("capability", "tried"),
    [
        ((10, 0), ["flash4", "flash2", "sdpa"]),
        ((9, 0), ["flash4", "flash3", "flash2", "sdpa"]),
        ((8, 6), ["flash2", "sdpa"]),
        ((7, 5), ["sdpa"]),
    ],
)
def test_auto_tries_only_kernels_for_the_gpu(fake_flash, monkeypatch, capability, tried):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    gpu = torch.device("cuda")
    assert backends_to_try(gpu, torch.bfloat16, 128) == tried
    assert backends_to_try(gpu, torch.float32, 128) == ["sdpa"]
    assert backends_to_try(gpu, torch.bfloat16, 12) == ["sdpa"]
    assert backends_to_try(gpu, torch.bfloat16, 512) == ["sdpa"]
    assert backends_to_try(torch.device("cpu"), torch.bfloat16, 128) == ["sdpa"]


def test_auto_remembers_the_kernel_that_worked(fake_flash, as_gpu):
    q, k, v = tensors(torch.bfloat16)
    expected = module._sdpa(q, k, v)
    for _ in range(3):
        assert torch.equal(attention(q, k, v), expected)
    assert fake_flash == ["flash3"] * 3


@pytest.mark.parametrize("error", [ImportError("undefined symbol"), RuntimeError("no kernel image"), TypeError("head")])
def test_auto_falls_back_when_a_kernel_fails(fake_flash, as_gpu, monkeypatch, caplog, error):
    tries = []

    def broken():
        tries.append(1)
        raise error

    monkeypatch.setitem(module._KERNELS, "flash3", broken)
    q, k, v = tensors(torch.bfloat16)
    for _ in range(2):
        attention(q, k, v)
    assert fake_flash == ["flash2", "flash2"]
    assert len(tries) == 1  # once for these shapes
    attention(q[:, :2], k, v)
    assert len(tries) == 2  # and once for others
    assert len(caplog.records) == 1
    assert "flash3" in caplog.text
    assert str(error) in caplog.text
    with pytest.raises(ValueError, match="flash3"):
        attention(q, k, v, "flash3")  # a named kernel never falls back


def test_memory_errors_are_not_taken_for_a_broken_kernel(fake_flash, as_gpu, monkeypatch):
    def full():
        raise torch.OutOfMemoryError("full")

    monkeypatch.setitem(module._KERNELS, "flash3", full)
    q, k, v = tensors(torch.bfloat16)
    with pytest.raises(torch.OutOfMemoryError):
        attention(q, k, v)


def test_a_broken_parent_package_is_not_installed(monkeypatch):
    def broken(name):
        raise ImportError(f"{name}: undefined symbol")

    monkeypatch.setattr(module.importlib.util, "find_spec", broken)
    assert not module._is_found("flash_attn.cute")


_COMPILED = """
import dataclasses, sys, types
import torch
import fw_model.layers.attention as module
from fw_model.config import VideoConfig, tiny
from fw_model.model.model import FantasyWorld

calls = []
def kernel(q, k, v):
    calls.append(q.shape)
    return module._sdpa(q, k, v)

sys.modules["flash_attn"] = types.SimpleNamespace(flash_attn_func=kernel)
module._installed = lambda: ("sdpa", "flash2")
module._on_gpu = lambda _q: True
module.backends_to_try = lambda *_: ["flash2", "sdpa"]
video = VideoConfig(dim=48, heads=2, ffn_dim=64, blocks=4, in_dim=16, text_dim=12, text_len=7)
geometry = dataclasses.replace(tiny().geometry, width=24, heads=2, camera_heads=2, dpt_taps=(1, 0, 0, 0))
world = FantasyWorld(dataclasses.replace(tiny(), video=video, geometry=geometry, camera=None, pcb_blocks=2)).eval()
g = torch.Generator().manual_seed(0)
latents, context = torch.randn(1, 16, 2, 4, 6, generator=g), torch.randn(1, 7, 12, generator=g)
with torch.no_grad():
    for parameter in world.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=g))
    plain = world(latents, torch.tensor([500.0]), context=context)
    eager = len(calls)
    world.compile_blocks(backend="eager", fullgraph=True)
    fast = world(latents, torch.tensor([500.0]), context=context)
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
assert graphs == 2, graphs  # one for all PCB blocks, one for all IRG blocks
assert len(calls) == 2 * eager > 0, (eager, len(calls))
torch.testing.assert_close(fast.velocity, plain.velocity, rtol=1e-4, atol=1e-5)
world.pcb[0].zero_grad()
world(latents, torch.tensor([500.0]), context=context).velocity.sum().backward()  # torch's own attention
assert world.pcb[0].self_attn.q.weight.grad is not None
"""


@pytest.mark.slow
def test_compiled_blocks_call_other_kernels_without_graph_breaks():
    """In a process of its own, where no type checker wraps the functions; `fullgraph` refuses graph breaks."""
    out = subprocess.run([sys.executable, "-c", _COMPILED], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-2000:]


def test_kernels_are_called_with_our_layout(fake_flash):
    q, k, v = tensors(torch.bfloat16)
    expected = module._sdpa(q, k, v)
    for name in ("flash2", "flash3", "flash4", "xformers"):
        assert torch.equal(module._KERNELS[name]()(q, k, v), expected)
    assert fake_flash == ["flash2", "flash3", "flash4", "xformers"]


@pytest.mark.parametrize("shape", [(2, 70, 4, 48), (1, 5, 2, 8)])
def test_two_products_are_attention(shape: tuple[int, int, int, int]) -> None:
    """The CPU's way in bfloat16, against float64."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(shape, generator=generator) for _ in range(3))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) * shape[-1] ** -0.5
    expected = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.double())
    torch.testing.assert_close(module._products(q, k, v).double(), expected, rtol=1e-4, atol=1e-5)
    half = module._products(q.bfloat16(), k.bfloat16(), v.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.double(), expected, rtol=0.05, atol=0.03)


def test_products_stand_in_only_for_small_bfloat16_on_a_capable_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda: True)
    small, large = torch.zeros(1, 64, 2, 8), torch.zeros(1, 8192, 2, 8)
    assert module._favors_products(small.bfloat16(), small.bfloat16())
    assert not module._favors_products(small, small)
    assert not module._favors_products(large.bfloat16(), large.bfloat16())
    monkeypatch.setattr(module, "has_fast_bfloat16", lambda: False)
    assert not module._favors_products(small.bfloat16(), small.bfloat16())
