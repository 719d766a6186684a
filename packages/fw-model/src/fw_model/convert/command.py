"""``fw convert`` as a function: a ``.pth`` file in, a folder of safetensors out; a child process opens the pickle."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from fw_model.config import WorldConfig

CHILD = "fw_model.convert.pickles"


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Result of a conversion."""

    kind: str
    """Description of the source file."""
    folder: Path
    """Folder of the converted files."""
    files: tuple[str, ...]
    """Names of the files written."""
    tensors: int
    """Tensors written."""
    parameters: int
    """Numbers in them."""
    notes: tuple[str, ...]
    """Prefixes removed from the names, and the copy that was taken where the file holds an EMA too."""
    left_out: tuple[str, ...]
    """Names that the model does not use (a CLIP file's text tower), at most ten of them."""


def convert_checkpoint(source: str | Path, folder: str | Path, *, config: WorldConfig | None = None) -> Converted:
    """Turn a checkpoint into safetensors.

    Reads released FantasyWorld files (``model.pth``; the two experts: ``high_noise_model.pth``,
    ``low_noise_model.pth``), and the original Wan2.1 VAE, UMT5 and CLIP files. The pickle is opened with
    ``weights_only=True`` in a separate process, so nothing in it can run and its memory is given back.

    Args:
        source: the .pth (or .pt, .bin, .safetensors) file.
        folder: where the result goes: config.json and model.safetensors for a world model (then loaded with
            ``FantasyWorld.from_pretrained``), one safetensors file for the others.
        config: of a world model that is none of the released sizes.

    Raises:
        ValueError: no such file, a pickle that holds more than tensors, or tensors of a model this is not for.
    """
    source, folder = Path(source), Path(folder)
    if not source.is_file():
        raise ValueError(f"There is no file {source}; give the downloaded checkpoint.")
    request = {
        "source": str(source.resolve()),
        "folder": str(folder.resolve()),
        "config": None if config is None else config.to_dict(),
    }
    done = subprocess.run(
        [sys.executable, "-m", CHILD], input=json.dumps(request), capture_output=True, text=True, check=False
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        reason = done.stderr.strip().splitlines()
        raise ValueError(f"{source} was not converted: {reason[-1] if reason else f'exit code {done.returncode}'}")
    result = json.loads(lines[-1])
    return Converted(
        kind=result["kind"],
        folder=folder,
        files=tuple(result["files"]),
        tensors=result["tensors"],
        parameters=result["parameters"],
        notes=tuple(result["notes"]),
        left_out=tuple(result["left_out"]),
    )
