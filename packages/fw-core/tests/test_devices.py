"""Devices and data types by name."""

from typing import Any

import pytest
import torch

from fw_core.devices import choose_device, choose_dtype, float64_device


def test_data_types_by_name() -> None:
    for name in ("bfloat16", "bf16", "torch.bfloat16", torch.bfloat16):
        assert choose_dtype(name) == torch.bfloat16
    assert choose_dtype("fp16") == torch.float16
    assert choose_dtype(None) is None
    with pytest.raises(ValueError, match=r"int7.*bfloat16"):
        choose_dtype("int7")
    wrong: Any = 16
    with pytest.raises(TypeError, match="16"):
        choose_dtype(wrong)


def test_float64_is_computed_where_it_exists() -> None:
    assert float64_device(torch.device("mps")) == torch.device("cpu")
    assert float64_device(torch.device("cuda", 1)) == torch.device("cuda", 1)


def test_devices_by_name() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="warp"):
        choose_device("warp")
