"""LoRA files of other programs on the video branch: read the layout, then merge the update or run it as a branch."""

from fw_model.lora.apply import LoadedLora, load_lora, loaded_loras, unload_lora
from fw_model.lora.layouts import LoraFile, read_lora
from fw_model.lora.save import save_lora

__all__ = ["LoadedLora", "LoraFile", "load_lora", "loaded_loras", "read_lora", "save_lora", "unload_lora"]
