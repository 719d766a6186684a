"""FLOPs are those of the network's operations, once, without recomputation; counting changes no number."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from fw_train.config.schema import TrainConfig
from fw_train.engine.checkpoint import CheckpointStore
from fw_train.engine.distributed import Context
from fw_train.engine.throughput import Meter, Step, peak_flops, uncounted


@pytest.fixture
def meter(tmp_path: Path) -> Meter:
    ctx = Context(store=CheckpointStore(tmp_path), device=torch.device("cpu"))
    return Meter(TrainConfig(batch=3), ctx)


def test_a_linear_layer_counts_its_three_products_and_no_recomputation(meter: Meter) -> None:
    layer, x = nn.Linear(5, 7), torch.randn(11, 5, requires_grad=True)
    with meter.counting(4):
        layer(x).sum().backward()
    assert meter.flops[4] == 3 * 2 * 11 * 5 * 7
    other = Meter(TrainConfig(batch=3), meter.ctx)
    with other.counting(4):
        again = checkpoint(layer, x, use_reentrant=False)
        assert isinstance(again, torch.Tensor)
        again.sum().backward()
    assert other.flops == meter.flops


def test_attention_counts_and_what_is_marked_does_not(meter: Meter) -> None:
    q, k, v = (torch.randn(1, 2, 6, 8, requires_grad=True) for _ in range(3))
    with meter.counting(4):
        with uncounted():
            torch.matmul(q, k.mT)
        functional.scaled_dot_product_attention(q, k, v).sum().backward()
    product = 2 * 2 * 6 * 6 * 8
    assert meter.flops[4] in (7 * product, 6 * product)  # the fused backward pass computes the scores again


def test_only_the_first_step_is_counted(meter: Meter) -> None:
    a = torch.ones(4, 4)
    for _ in range(2):
        with meter.counting(4):
            torch.matmul(a, a)
    assert meter.flops[4] == 2 * 4**3


def test_counting_changes_no_bit(meter: Meter) -> None:
    layer, x = nn.Linear(5, 7), torch.randn(11, 5)
    plain = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    with meter.counting(4):
        counted = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    assert torch.equal(plain, counted)


def test_rates_follow_from_time_and_counts(meter: Meter) -> None:
    meter.flops = {360: 10**9}
    for seconds in (1.0, 3.0):
        meter.add(Step({"loss": torch.tensor(seconds)}, torch.tensor(1.0), 0.1, seconds), 360)
    row = meter.drain()
    assert row["loss"] == 2.0
    assert row["samples_per_s"] == pytest.approx(3 * 2 / 4)
    assert row["latent_tokens_per_s"] == pytest.approx(360 * 2 / 4)
    assert row["tflops_per_s"] == pytest.approx(1e-3 / 2)
    assert row["mfu"] == pytest.approx(0.5e9 / meter._peak)
    assert 1e8 < peak_flops(torch.device("cpu"), torch.float32) < 1e14


def test_counting_does_not_import_the_compiler() -> None:
    program = (
        "import sys, torch\nfrom fw_train.engine.throughput import FlopCount\n"
        "flops = {}\nwith FlopCount(flops, 1): torch.ones(2, 2) @ torch.ones(2, 2)\n"
        "assert flops == {1: 16} and 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
