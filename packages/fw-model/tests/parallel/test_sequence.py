"""A sample divided over 2 and 4 gloo processes against one process: outputs and gradients, also of uneven parts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from fw_model.config import WorldConfig, preset
from fw_model.model.model import FantasyWorld
from fw_model.parallel.sequence import SequenceGroup, even_lengths, make_layout
from fw_model.parallel.volume import table, volume

DRIVER = Path(__file__).with_name("sequence_driver.py")


@pytest.fixture(scope="module", params=[("tiny", 2), ("tiny", 4), ("wan21_fun_1_3b", 4)], ids=str)
def measured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    name, size = request.param
    work = tmp_path_factory.mktemp("sequence")
    words = [sys.executable, str(DRIVER), str(work), name, str(size)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    return size, work


def test_processes_that_divide_a_sample_compute_what_one_computes(measured: tuple[int, Path]) -> None:
    _, work = measured
    one, many = (load_file(work / f"{stem}.safetensors") for stem in ("one", "many"))
    assert one.keys() == many.keys()
    squares = torch.zeros(2, dtype=torch.float64)
    for name, expected in one.items():
        error, size = (many[name] - expected).double(), expected.double()
        assert size.any(), name
        # the gradient of a bias may be a small difference of large terms, which the other gradients of its layer show
        layer = name.rpartition(".")[0] if name.startswith("grad/") else name
        largest = max(value.abs().max() for other, value in one.items() if other.startswith(layer))
        assert error.abs().max() <= (1e-3 if name.startswith("grad/") else 1e-5) * largest, name
        if name.startswith("grad/"):
            squares += torch.stack([error.square().sum(), size.square().sum()])
    assert squares[0].sqrt() <= 1e-5 * squares[1].sqrt()
    assert json.loads((work / "many.json").read_text())["apart"] == 0  # equal on all processes, bit for bit


def test_the_volume_is_what_the_processes_send(measured: tuple[int, Path]) -> None:
    size, work = measured
    many = json.loads((work / "many.json").read_text())
    frames, rows, columns = many["grid"]
    config = WorldConfig.from_json(many["config"])
    made = volume(config, 4 * frames - 3, 16 * rows, 16 * columns, size=size, itemsize=4, batch=2)
    assert made.total == pytest.approx(sum(many["sent"]) / size, rel=1e-12)


@given(count=st.integers(0, 100), parts=st.integers(1, 9))
def test_parts_are_whole_and_differ_by_one_at_most(count: int, parts: int) -> None:
    lengths = even_lengths(count, parts)
    assert (sum(lengths), len(lengths)) == (count, parts)
    assert max(lengths) - min(lengths) <= 1


def test_a_sample_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="2 latent frames cannot be divided over 3 processes"):
        make_layout(SequenceGroup(size=3, rank=0), 2, 4, 6, 5)
    with torch.device("meta"):
        world = FantasyWorld(preset("tiny"))
    with pytest.raises(ValueError, match="4 heads, which cannot be divided over 5 processes"):
        world.set_sequence_group(SequenceGroup(size=5, rank=0))


def test_the_documented_table_is_that_of_the_function() -> None:
    page = Path(__file__).parents[4] / "docs" / "benchmarks" / "parallel.md"
    assert table() in page.read_text(encoding="utf-8")
