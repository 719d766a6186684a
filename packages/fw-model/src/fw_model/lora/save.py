"""Write a LoRA in the layout of diffusers, which diffusers, ComfyUI and `load_lora` read.

Axes: r rank, i input width, o output width.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from fw_core.files import replacing
from fw_model.checkpoints.keys import to_diffusers

LORA_FILE = "pytorch_lora_weights.safetensors"


def save_lora(folder: Path, factors: Mapping[str, tuple[Tensor, Tensor]], *, pcb_blocks: int) -> Path:
    """Write `folder`/pytorch_lora_weights.safetensors.

    Args:
        folder: where to; created if absent.
        factors: our name of a video layer -> (down [r, i], up [o, r]). `up` contains alpha / rank, so that readers
            without the alpha load the file right.
        pcb_blocks: of the model's config; the file counts blocks over the whole backbone.
    """
    state: dict[str, Tensor] = {}
    for layer, (down, up) in factors.items():
        name = to_diffusers(f"{layer}.weight", pcb_blocks).removesuffix(".weight")
        state[f"transformer.{name}.lora_A.weight"] = down.detach().cpu().float().contiguous()
        state[f"transformer.{name}.lora_B.weight"] = up.detach().cpu().float().contiguous()
    with replacing(folder / LORA_FILE) as partial:
        save_file(state, partial, metadata={"format": "pt"})
        partial.chmod(0o644)  # safetensors leaves files to their owner alone
    return folder / LORA_FILE
