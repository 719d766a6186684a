"""Attention against its formula, and the choice of a kernel."""

import types

import pytest
import torch

import fw_model.layers.attention as module
from fw_model.layers.attention import Backend, attention, available_backends, check_backend, choose_backend


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
    others: list[Backend] = ["flash2", "flash3", "xformers"]
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
        "xformers.ops": types.SimpleNamespace(memory_efficient_attention=kernel("xformers", False)),
    }
    monkeypatch.setattr(module, "_installed", lambda: ("sdpa", "flash2", "flash3", "xformers"))
    monkeypatch.setattr(module.importlib, "import_module", lambda name: fakes[name])
    return calls


def test_named_kernels_refuse_what_they_cannot_run(fake_flash):
    assert available_backends() == ["sdpa", "flash2", "flash3", "xformers"]
    q, k, v = tensors()
    names: list[Backend] = ["flash2", "flash3", "xformers"]
    for name in names:
        with pytest.raises(ValueError, match="GPU"):
            attention(q, k, v, name)
    attention(q, k, v)
    assert fake_flash == []  # auto stays with SDPA on a CPU


@pytest.mark.parametrize(("capability", "chosen"), [((9, 0), "flash3"), ((8, 6), "flash2")])
def test_auto_choice_on_a_gpu(fake_flash, monkeypatch, capability, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)

    gpu = torch.device("cuda")
    assert choose_backend(gpu, torch.bfloat16, 128) == chosen
    assert choose_backend(gpu, torch.float32, 128) == "sdpa"
    assert choose_backend(gpu, torch.bfloat16, 12) == "sdpa"
    assert choose_backend(gpu, torch.bfloat16, 512) == "sdpa"
    assert choose_backend(torch.device("cpu"), torch.bfloat16, 128) == "sdpa"


def test_kernels_are_called_with_our_layout(fake_flash):
    q, k, v = tensors(torch.bfloat16)
    expected = module._sdpa(q, k, v)
    for name in ("flash2", "flash3", "xformers"):
        assert torch.equal(module._KERNELS[name]()(q, k, v), expected)
    assert fake_flash == ["flash2", "flash3", "xformers"]


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
