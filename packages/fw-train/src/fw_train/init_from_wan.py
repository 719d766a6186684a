"""`fw-train init`: write the initial model of stage 1 of a large preset from a downloaded Wan model.

The video branch gets Wan's weights, the geometry branch and the cross-branch attention get new ones (or VGGT's), and
pipeline.json names Wan's autoencoder, text encoder and CLIP encoder, converted to safetensors if they are pickles.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from fw_model.config import WorldConfig
from fw_train.config.schema import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from fw_model.checkpoints.weights import WeightFolder
    from fw_model.model.model import FantasyWorld

TRANSFORMER = ("transformer", "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json")
VAE = ("vae", "Wan2.1_VAE.safetensors", "Wan2.1_VAE.pth")
TEXT = ("text_encoder", "models_t5_umt5-xxl-enc-bf16.safetensors", "models_t5_umt5-xxl-enc-bf16.pth")
_CLIP = "models_clip_open-clip-xlm-roberta-large-vit-huge-14"
CLIP = ("image_encoder", f"{_CLIP}.safetensors", f"{_CLIP}.pth")
TOKENIZER = ("tokenizer", "google/umt5-xxl", "text_encoder")
_TOKENIZER_FILES = ("tokenizer.json", "spiece.model", "tokenizer_config.json", "special_tokens_map.json")


@dataclass(frozen=True, kw_only=True)
class InitOptions:
    """Write the folder for `fw-train stage1 --init` of a large preset, from a downloaded Wan model."""

    model: Positional[str]
    """Preset (wan21_fun_1_3b, wan21_i2v_14b, wan22_fun_a14b), or a JSON file of a WorldConfig."""
    wan: Annotated[Positional[Path], arg(metavar="WAN_FOLDER")]
    """The downloaded model, in the original layout (Wan, VideoX-Fun) or that of diffusers."""
    out: Annotated[Positional[Path], arg(metavar="OUT")]
    """Folder to write."""
    vggt: Path | None = None
    """VGGT safetensors to initialize the geometry branch. They have their own license, which is printed."""
    seed: int = 0
    """Seed of the new weights."""


def init(options: InitOptions) -> list[str]:
    """Write `options.out`; returns lines to print about it.

    Raises:
        ConfigError: OUT exists already, or the Wan folder is incomplete or of another model.
    """
    from fw_model.autoencoders.wan_vae import WanVAE
    from fw_model.checkpoints.checkpoint import find_video_backbone, save_world
    from fw_model.checkpoints.vggt import start_from_vggt
    from fw_model.encoders.clip import ClipImageEncoder
    from fw_model.encoders.umt5 import UMT5TextEncoder
    from fw_model.pipeline.components import save_components
    from fw_train.model_bundle import world_config

    config, wan, out = world_config(options.model), options.wan.resolve(), options.out.absolute()
    if out.exists():
        raise ConfigError(f"{out} exists already; give another folder, or delete it")
    if not wan.is_dir():
        raise ConfigError(f"{wan} is not a folder; give the downloaded Wan model")
    found = {"transformer": _find(wan, _transformer(config)), "vae": _find(wan, VAE), "text_encoder": _find(wan, TEXT)}
    if config.video.clip_dim is not None:
        found["image_encoder"] = _find(wan, CLIP)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        text_folder = _safetensors(found["text_encoder"], partial / "text_encoder")
        if text_folder != found["text_encoder"].resolve():
            _copy_tokenizer(wan, text_folder)
        text_encoder = UMT5TextEncoder(text_folder, text_len=config.video.text_len)
        text_encoder.tokenizer_folder()
        vae = WanVAE.from_pretrained(_safetensors(found["vae"], partial / "vae_original"))
        clip = None
        if "image_encoder" in found:
            clip = ClipImageEncoder(_safetensors(found["image_encoder"], partial / "image_encoder"))
        world, source = _new_branches(config, options.seed), found["transformer"]
        files, names, layout = find_video_backbone(world, wan if source.suffix == ".json" else source)
        lines = [f"video branch: {source} ({layout} layout)"]
        if options.vggt is None:
            lines.append(f"geometry branch and cross-branch attention: new, seed {options.seed}")
        else:
            start = start_from_vggt(world, options.vggt)
            lines += [
                f"geometry branch: {start.loaded} tensors of {options.vggt}; cross-branch attention: new",
                start.license,
            ]
        save_world(world, partial, read=_reader(world, files, names))
        save_components(partial, vae, text_encoder, clip)
        shutil.rmtree(partial / "vae_original", ignore_errors=True)
        partial.rename(out)
    except ValueError as error:
        raise ConfigError(str(error).replace(str(partial), str(out))) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [*lines, f"next: fw-train stage1 RECIPE --model {options.model} --init {out} --data DATASET --out RUN"]


def _new_branches(config: WorldConfig, seed: int) -> "FantasyWorld":
    """A model with new weights, and the video branch left on the meta device."""
    from fw_model.checkpoints.fill import fill_computed
    from fw_model.layers.declarations import initial_value
    from fw_train.initial_weights import meta_world

    world = meta_world(config)
    new = [name for name, _ in world.named_parameters() if world.parameter_group(name) != "video"]
    fill_computed(world, {name: lambda name=name: initial_value(world, name, seed) for name in new})
    return world


def _reader(world: "FantasyWorld", files: "WeightFolder", names: Mapping[str, str]) -> Callable[[str], "Tensor"]:
    """Reads the video branch, of which `names` (name in the files -> parameter) tells the names, when it is written."""
    stored = {ours: theirs for theirs, ours in names.items()}

    def read(name: str) -> "Tensor":
        return files.read(stored[name]) if name in stored else world.get_parameter(name).detach()

    return read


def _transformer(config: WorldConfig) -> tuple[str, ...]:
    """Names of the transformer in a download; of Wan2.2, the expert of the config."""
    low, high = config.timestep_range
    if low > 0:
        return ("high_noise_model", "transformer")
    return ("low_noise_model", "transformer_2") if high < 1000 else TRANSFORMER


def _find(folder: Path, names: tuple[str, ...]) -> Path:
    """The first of the names that exists."""
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise ConfigError(f"{folder} holds none of {', '.join(names)}; is the download complete?")


def _safetensors(source: Path, folder: Path) -> Path:
    """`source`, or the folder that a pickle was converted to."""
    if source.suffix != ".pth":
        return source.resolve()
    from fw_model.convert import convert_checkpoint

    return convert_checkpoint(source, folder).folder


def _copy_tokenizer(wan: Path, text_folder: Path) -> None:
    source = next((wan / name for name in TOKENIZER if any((wan / name / f).is_file() for f in _TOKENIZER_FILES)), None)
    if source is None:
        raise ConfigError(f"{wan} holds no tokenizer ({', '.join(TOKENIZER)}); is the download complete?")
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copy2(source / name, text_folder / name)
