"""The loading bench: `python -m benchmarks.loading` loads a synthetic checkpoint into processes that shard the model.

Writes loading.json and loading.md into an output folder: of every process the bytes read, and its peak resident memory
above what it had before. Exits 1 if all processes together need more than 1.2 times the stored weights.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fw_model.checkpoints.checkpoint import load_weights, read_config, save_world
from fw_model.checkpoints.slices import SliceReader
from fw_model.config import WorldConfig, preset
from fw_model.model.model import FantasyWorld
from fw_model.parallel.shards import local_part

LIMIT = 1.2


def cut_config(gigabytes: float) -> WorldConfig:
    """The 1.3B preset with as many video and geometry blocks as make a bfloat16 checkpoint of about this size."""
    full = preset("wan21_fun_1_3b")
    made = full
    for irg in range(1, full.irg_blocks + 1):
        video = dataclasses.replace(full.video, blocks=irg + 1)
        geometry = dataclasses.replace(full.geometry, dpt_taps=(0, 0, 0, 0))
        assert full.camera is not None
        camera = dataclasses.replace(full.camera, adapter_blocks=1)
        made = dataclasses.replace(full, name="cut", video=video, geometry=geometry, camera=camera, pcb_blocks=1)
        with torch.device("meta"):
            size = sum(2 * parameter.numel() for parameter in FantasyWorld(made).parameters())
        if size >= gigabytes * 1e9:
            break
    return made


def write(config: WorldConfig, folder: Path) -> int:
    """Write random bfloat16 weights, tensor by tensor; returns the bytes of all tensors."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        world = FantasyWorld(config)

    def read(name: str) -> Tensor:
        shape = world.get_parameter(name).shape
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, 0.02, generator=generator)

    save_world(world, folder, dtype=torch.bfloat16, read=read)
    return sum(2 * parameter.numel() for parameter in world.parameters())


def load(folder: Path, config: WorldConfig, rank: int, ranks: int) -> dict[str, Any]:
    """What each process does: shard the model on the meta device, then read its rows."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", store=dist.FileStore(str(folder / "rendezvous"), ranks), rank=rank, world_size=ranks
    )
    with torch.device("meta"):
        world = FantasyWorld(config)
    for parameter in world.parameters():  # the heads too, as the file has them
        parameter.data = parameter.data.bfloat16()
    mesh = init_device_mesh("cpu", (ranks,))
    for block in (*world.pcb, *world.irg):
        fully_shard(block, mesh=mesh)
    fully_shard(world, mesh=mesh)
    read, counted = SliceReader.read, []

    def counting(self: SliceReader, *args: Any) -> Tensor:
        tensor = read(self, *args)
        counted.append(tensor.nbytes)
        return tensor

    SliceReader.read = counting  # pyright: ignore[reportAttributeAccessIssue]
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, begin = status_bytes("VmRSS"), time.perf_counter()
    load_weights(world, folder)
    seconds, peak, after = time.perf_counter() - begin, status_bytes("VmHWM"), status_bytes("VmRSS")
    dist.barrier()
    held = sum(local_part(parameter).nbytes for parameter in world.parameters())
    dist.destroy_process_group()
    figures = {"before": before, "peak": peak, "after": after, "held": held, "read": sum(counted)}
    return {"rank": rank, "seconds": round(seconds, 2), **figures}


def status_bytes(field: str) -> int:
    """A memory figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(gigabytes: float, ranks: int) -> dict[str, Any]:
    """Write a checkpoint, load it in `ranks` processes, and gather their figures."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        config = cut_config(gigabytes)
        stored = write(config, folder)
        words = [sys.executable, "-m", "benchmarks.loading", "--ranks", str(ranks), "--folder", str(folder)]
        processes = [subprocess.Popen([*words, "--rank", str(rank)], stdout=subprocess.PIPE) for rank in range(ranks)]
        rows = [json.loads(process.communicate()[0]) for process in processes]
    growth = sum(row["peak"] - row["before"] for row in rows)
    return {"stored": stored, "ranks": rows, "growth": growth, "ratio": growth / stored}


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = ["| process | read | shards | before | peak | growth |", "|---|---:|---:|---:|---:|---:|"]
    for row in result["ranks"]:
        values = (row["read"], row["held"], row["before"], row["peak"], row["peak"] - row["before"])
        lines.append(f"| {row['rank']} | " + " | ".join(f"{value / 1e6:,.0f}" for value in values) + " |")
    read = sum(row["read"] for row in result["ranks"])
    held = sum(row["held"] for row in result["ranks"])
    lines.append(f"| all | {read / 1e6:,.0f} | {held / 1e6:,.0f} | | | {result['growth'] / 1e6:,.0f} |")
    lines.append("")
    lines.append(f"stored weights: {result['stored'] / 1e6:,.0f} MB; growth over stored: {result['ratio']:.3f}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the bench, or one of its processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench"))
    parser.add_argument("--gigabytes", type=float, default=2.0, help="size of the checkpoint")
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rank is not None:
        print(json.dumps(load(options.folder, read_config(options.folder), options.rank, options.ranks)))
        return 0
    result = measure(options.gigabytes, options.ranks)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "loading.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "loading.md").write_text(table(result))
    print(table(result))
    return int(result["ratio"] > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
