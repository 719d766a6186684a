"""The only module that opens pickles. It runs as a process: JSON request on stdin, JSON result on stdout.

``torch.load`` runs with ``weights_only=True`` (nothing but tensors and plain containers is built), and memory-mapped
where the file allows it, so shards are written without holding the whole file.
"""

import json
import pickle
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from fw_core.files import replacing, write_text
from fw_model.checkpoints.checkpoint import CONFIG_FILE, FORMAT
from fw_model.checkpoints.keys import released_names
from fw_model.checkpoints.opening import other_kind
from fw_model.checkpoints.prefixes import plain_names, unwrap
from fw_model.checkpoints.sources import load_tensors
from fw_model.checkpoints.weights import MODEL_FILE, SHARD_BYTES, compare_names, looks_like, save_weights
from fw_model.config import WorldConfig, wan21_i2v_14b, wan22_fun_a14b
from fw_model.convert.layouts import clip_to_transformers, umt5_to_transformers, vae_to_diffusers
from fw_model.model.model import FantasyWorld


def main() -> int:
    """Read a request, convert, print the result; on failure one line on stderr and exit code 1."""
    request = json.loads(sys.stdin.read())
    config = None if request["config"] is None else WorldConfig.from_dict(request["config"])
    try:
        result = convert(Path(request["source"]), Path(request["folder"]), config)
    except (ValueError, OSError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


def convert(source: Path, folder: Path, config: WorldConfig | None) -> dict[str, Any]:
    """Convert one file; see ``fw_model.convert.convert_checkpoint``."""
    # tensors under plain names, and the format that these names show
    state, notes = read(source)
    kind = looks_like(set(state))
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "a released FantasyWorld checkpoint":
        left_out: set[str] = set()
        written = _write_world(folder, state, config or released_config(state, source), source)
    elif kind == "a Wan video autoencoder in the original layout":
        written, left_out = _write_part(folder, "diffusion_pytorch_model.safetensors", vae_to_diffusers(state)), set()
    elif kind == "a UMT5 text encoder in the original layout":
        renamed = umt5_to_transformers(state)
        del renamed["encoder.embed_tokens.weight"]  # the same tensor as shared.weight; one copy is stored
        written, left_out = _write_part(folder, MODEL_FILE, renamed), set()
    elif any(name.removeprefix("model.").startswith("visual.transformer.") for name in state):
        kind = "a CLIP in the original layout"
        written = _write_part(folder, MODEL_FILE, clip_to_transformers(state))
        left_out = {name for name in state if not name.removeprefix("model.").startswith("visual.")}
    elif kind.startswith("a Wan video transformer"):
        written, left_out = _write_part(folder, "diffusion_pytorch_model.safetensors", state), set()
    else:
        raise ValueError(
            f"it looks like {kind}, which cannot be converted; convertible are released FantasyWorld files and the "
            "original Wan transformer, VAE, UMT5 and CLIP files."
        )
    files = [file.name for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".json")]
    return {"kind": kind, "files": files, "left_out": sorted(left_out)[:10], "notes": notes, **written}


def read(source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file by plain name, and notes about removed prefixes and the copy that was taken.

    Raises:
        ValueError: another kind of file, or anything in it that is not a tensor under a name.
    """
    content, notes = (load_tensors(source), []) if source.suffix == ".safetensors" else _open_pickle(source)
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange:
        raise ValueError(f"{source.name} holds more than tensors, first {strange[0]!r}.")
    tensors = {str(name): value for name, value in content.items()}
    names, more = plain_names(tensors)
    return {plain: tensors[stored] for stored, plain in names.items()}, [*notes, *more]


def _open_pickle(source: Path) -> tuple[Mapping[Any, Any], list[str]]:
    with source.open("rb") as file:
        start = file.read(512)
    if not start.startswith((b"PK", b"\x80")):  # the beginnings of PyTorch's own files
        kind = other_kind(start)
        if kind:
            raise ValueError(f"{source.name} is {kind}")
    try:
        content = torch.load(source, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(source))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{source.name} holds more than tensors and was refused, because opening it could run code "
            f"({str(error).splitlines()[0]}). Get a safetensors file of it from its authors."
        ) from error
    except RuntimeError as error:
        raise ValueError(f"{source.name} is no whole PyTorch file ({str(error).splitlines()[0]}).") from error
    content, notes = unwrap(content)
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{source.name} holds a {type(content).__name__}, not tensors by name.")
    return content, notes


def released_config(state: Mapping[str, Tensor], source: Path) -> WorldConfig:
    """Which released model a file is: by its names, and for the two Wan2.2 experts by the file's name."""
    if any(name.startswith("camera_condition.") for name in state):
        return wan21_i2v_14b()
    if "high_noise" in source.name:
        return wan22_fun_a14b("high_noise")
    if "low_noise" in source.name:
        return wan22_fun_a14b("low_noise")
    raise ValueError(
        f"{source.name} is one of the two Wan2.2 experts, but its name does not say which; "
        "call it high_noise_model.pth or low_noise_model.pth."
    )


def _write_world(folder: Path, state: Mapping[str, Tensor], config: WorldConfig, source: Path) -> dict[str, int]:
    """config.json and model.safetensors under our names."""
    # compare names and shapes with the model before anything is written
    with torch.device("meta"):
        world = FantasyWorld(config)
    names = released_names(world)
    shapes = {name: tuple(parameter.shape) for name, parameter in world.named_parameters()}
    compare_names(
        {name: tuple(value.shape) for name, value in state.items()},
        {theirs: shapes[ours] for theirs, ours in names.items()},
        source=source.name,
        purpose=f"preset {config.name!r}",
    )
    # write the tensors in the order of the model
    renamed = {names[theirs]: value for theirs, value in state.items()}
    save_weights(folder, {name: renamed[name] for name in shapes}, dtype=None, shard_bytes=SHARD_BYTES)
    content = {"format": FORMAT, **config.to_dict()}
    write_text(folder / CONFIG_FILE, json.dumps(content, indent=2) + "\n")
    return _count(renamed)


def _write_part(folder: Path, name: str, state: Mapping[str, Tensor]) -> dict[str, int]:
    """One safetensors file, whole or not at all."""
    with replacing(folder / name) as partial:
        save_file({key: value.contiguous() for key, value in state.items()}, partial, metadata={"format": "pt"})
    return _count(state)


def _count(state: Mapping[str, Tensor]) -> dict[str, int]:
    return {"tensors": len(state), "parameters": sum(value.numel() for value in state.values())}


if __name__ == "__main__":
    sys.exit(main())
