"""Load, convert and inspect checkpoints: a Wan backbone in its original layout, and a released .pth file.

    python examples/02_checkpoints.py --out checkpoints

Both files are made here, small and random, because the real ones are tens of gigabytes; the calls are the same.
"""

import argparse
import dataclasses
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

from fw_model.checkpoints.keys import to_released, to_wan
from fw_model.config import Compat, WorldConfig, tiny
from fw_model.convert import convert_checkpoint
from fw_model.model.model import FantasyWorld


def wan_backbone(config: WorldConfig) -> dict[str, torch.Tensor]:
    """The video branch of a random model under the original Wan names (blocks.0.self_attn.q.weight ...)."""
    world = FantasyWorld(config, seed=7)
    names = [name for name, _ in world.named_parameters() if world.parameter_group(name) == "video"]
    return {to_wan(name, config.pcb_blocks): world.get_parameter(name).detach() for name in names}


def released_file(config: WorldConfig) -> dict[str, torch.Tensor]:
    """A whole random model under the names of the released model.pth."""
    return {to_released(name): p.detach() for name, p in FantasyWorld(config, seed=8).named_parameters()}


def show(world: FantasyWorld) -> None:
    """Parameters by group and part."""
    sizes: Counter[tuple[str, str]] = Counter()
    for name, parameter in world.named_parameters():
        part = ".".join([piece for piece in name.split(".") if not piece.isdigit()][:2])
        sizes[world.parameter_group(name), part] += parameter.numel()
    for (group, part), count in sorted(sizes.items()):
        print(f"  {group:9} {part:28} {count:>10,}")
    print(f"  {'':9} {'in all':28} {sizes.total():>10,}")


def main() -> None:
    """Both ways into a model, and the way out."""
    parser = argparse.ArgumentParser(description="Load, convert and inspect checkpoints.")
    parser.add_argument("--out", type=Path, default=Path("checkpoints"))
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    # a Wan backbone, as its authors name it; names and shapes must all fit
    backbone = wan_backbone(tiny())
    save_file(backbone, out / "wan.safetensors")
    world = FantasyWorld(tiny(), seed=0)
    print("loaded a video backbone in the", world.load_video_backbone(out / "wan.safetensors"), "layout:")
    show(world)
    world.save_pretrained(out / "started")

    # one tensor too few is refused by name, not filled with noise
    save_file({key: value for key, value in backbone.items() if key != "head.head.bias"}, out / "broken.safetensors")
    try:
        world.load_video_backbone(out / "broken.safetensors")
    except ValueError as refusal:
        print("refused:", refusal)

    # a released model.pth, opened in a separate process; real sizes are recognized without `config`
    released = dataclasses.replace(tiny(), compat=Compat.released())
    torch.save(released_file(released), out / "model.pth")
    done = convert_checkpoint(out / "model.pth", out / "converted", config=released)
    print(f"{done.kind}: {done.tensors} tensors, {done.parameters:,} parameters -> {', '.join(done.files)}")
    again = FantasyWorld.from_pretrained(out / "converted")
    compat = dataclasses.asdict(again.config.compat)
    print("trained with", {key: value for key, value in compat.items() if value != getattr(Compat(), key)})


if __name__ == "__main__":
    main()
