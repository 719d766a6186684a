"""Open safetensors files; refuse unfinished, quantized and foreign ones by name.

The header is read first: eight bytes with its length, then JSON with type, shape and place of every tensor.
"""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

_LENGTH_BYTES = 8
_MOST_HEADER = 100_000_000
_WHOLE = ("I8", "U8", "I4", "U4", "F4", "I16", "U16", "I32", "U32")
_SCALES = re.compile(r"(^|\.)(scaled_fp8|scale_weight|scale_input|weight_scale(_\d|_inv)?|input_scale|comfy_quant)$")
_DOWNLOAD = "download it again"


@contextmanager
def open_safetensors(path: Path) -> Iterator[Any]:
    """A handle on a safetensors file, as `safetensors.safe_open` gives it.

    Raises:
        ValueError: a git-lfs pointer, a web page, GGUF, a pickle, a cut-off file, or quantized weights.
    """
    header = read_header(path)
    check_quantization(path, {name: entry["dtype"] for name, entry in header.items()})
    try:
        handle = safe_open(path, framework="pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); {_DOWNLOAD}") from None
    with handle as opened:
        yield opened


def safetensors_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, sorted by name, without the hidden ones that an interrupted save leaves."""
    return sorted(folder.glob("[!.]*.safetensors"))


def read_json(path: Path) -> Any:
    """The content of a JSON file. ValueError if it is a git-lfs pointer, a web page, or not JSON."""
    content = path.read_bytes()
    kind = other_kind(content[:512])
    if kind:
        raise ValueError(f"{path} is {kind}")
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}); {_DOWNLOAD}") from None


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """Type, shape and place of every tensor of a safetensors file. ValueError if it is not a whole one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(512)
        kind = other_kind(start)
        if kind:
            raise ValueError(f"{path} is {kind}")
        length = int.from_bytes(start[:_LENGTH_BYTES], "little")
        if size < _LENGTH_BYTES or not start[_LENGTH_BYTES:].lstrip().startswith(b"{") or length > _MOST_HEADER:
            raise ValueError(f"{path} ({size} bytes) is not a safetensors file; {_DOWNLOAD}")
        if _LENGTH_BYTES + length > size:
            raise ValueError(f"{path} is cut off in its header ({size} bytes); {_DOWNLOAD}")
        file.seek(_LENGTH_BYTES)
        try:
            header = json.loads(file.read(length))
        except ValueError:
            raise ValueError(f"{path} has an unreadable header; {_DOWNLOAD}") from None
    header.pop("__metadata__", None)
    whole = _LENGTH_BYTES + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if size < whole:
        raise ValueError(f"{path} is cut off: it has {size} of {whole} bytes; {_DOWNLOAD}")
    return header


def other_kind(start: bytes) -> str | None:
    """A description and a remedy for a file that begins with these bytes, or None if it may be safetensors."""
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the weights; run `git lfs pull` in its folder, or download the file itself"
    if start.startswith(b"GGUF"):
        return "a GGUF file (quantized for llama.cpp), which is not supported; get the safetensors of the model"
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return f"a web page, not the weights (is a login or a license needed?); {_DOWNLOAD}"
    if start.startswith((b"PK\x03\x04", b"\x80\x02")):
        return "a pickle under a wrong name; call it .pth and run `fw convert` on it"
    return "empty; download it again" if not start else None


def check_quantization(path: Path, dtypes: Mapping[str, str]) -> None:
    """ValueError for weights that need scales or an unpacking that the model does not have."""
    scales = [name for name in dtypes if _SCALES.search(name)]
    if scales:
        raise ValueError(
            f"{path} holds quantized weights with scales ({scales[0]}), such as fp8-scaled files; "
            "get the bf16, fp16 or fp32 file of the model"
        )
    whole = [name for name, dtype in dtypes.items() if dtype in _WHOLE and name.endswith(".weight")]
    if whole:
        raise ValueError(
            f"{path} holds quantized weights ({whole[0]} is {dtypes[whole[0]]}); "
            "get the bf16, fp16 or fp32 file of the model"
        )


def is_fp8(dtype: torch.dtype) -> bool:
    """Whether a type is one of the 8-bit floats, which store weights and do not compute."""
    return dtype.is_floating_point and dtype.itemsize == 1
