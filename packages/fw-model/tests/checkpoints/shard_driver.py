"""Loads checkpoints into models that FSDP2 has sharded on the meta device; run by test_sharded_loading.py.

    python shard_driver.py WORK PROCESSES [COPIES]

WORK/cases.json names the config and the checkpoints: folder, how to load, type of the parameters. Each process writes
rank-N.json: by checkpoint whether its shards equal the rows of the plainly loaded model, and the bytes that it read.
"""

import copy
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fw_model.checkpoints.checkpoint import load_video_backbone, load_weights
from fw_model.checkpoints.slices import SliceReader
from fw_model.config import WorldConfig
from fw_model.model.model import FantasyWorld
from fw_model.parallel.shards import local_part


def count_bytes() -> list[int]:
    """Bytes of every read from here on."""
    read, counted = SliceReader.read, []

    def counting(self: SliceReader, *args: Any) -> torch.Tensor:
        tensor = read(self, *args)
        counted.append(tensor.nbytes)
        return tensor

    SliceReader.read = counting  # pyright: ignore[reportAttributeAccessIssue]
    return counted


def shard(world: FantasyWorld, processes: int, copies: int) -> None:
    """FSDP2 over all processes, or HSDP in `copies` groups."""
    shape, names = (processes,), ("shard",)
    if copies > 1:
        shape, names = (copies, processes // copies), ("replicate", "shard")
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=names)
    for block in (*world.pcb, *world.irg):
        fully_shard(block, mesh=mesh)
    fully_shard(world, mesh=mesh)


def own_rows(whole: torch.Tensor, part: int, parts: int) -> torch.Tensor:
    """What torch.chunk gives process `part`."""
    chunks = whole.chunk(parts, dim=0)
    return chunks[part] if part < len(chunks) else whole[:0]


def load(world: FantasyWorld, folder: Path, how: str) -> None:
    if how == "backbone":
        load_video_backbone(world, folder)
    else:
        load_weights(world, folder)


def plainly_loaded(config: WorldConfig, cases: dict[str, list[str]]) -> dict[str, FantasyWorld]:
    """Each checkpoint in a whole model; what a backbone leaves out keeps its random values."""
    start = FantasyWorld(config, seed=8)
    made = {}
    for name, (folder, how, dtype) in cases.items():
        made[name] = copy.deepcopy(start).to(getattr(torch, dtype))
        load(made[name], Path(folder), how)
    return made


def one_rank(work: Path, plain: dict[str, FantasyWorld], rank: int, processes: int, copies: int) -> None:
    store = dist.FileStore(str(work / "rendezvous"), processes)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=processes)
    counted, rows = count_bytes(), {}
    parts = processes // copies
    for name, (folder, how, dtype) in json.loads((work / "cases.json").read_text())["cases"].items():
        with torch.device("meta"):
            world = FantasyWorld(plain[name].config).to(getattr(torch, dtype))
        shard(world, processes, copies)
        counted.clear()
        load(world, Path(folder), how)
        read = sum(counted)
        same, held, elements = True, 0, 0
        for parameter_name, parameter in world.named_parameters():
            if parameter.is_meta:
                assert how == "backbone"
                assert world.parameter_group(parameter_name) != "video", parameter_name
                continue
            assert isinstance(parameter, nn.Parameter)
            expected = own_rows(plain[name].get_parameter(parameter_name).detach(), rank % parts, parts)
            local = local_part(parameter)
            same = same and local.dtype == expected.dtype and torch.equal(local, expected)
            held += local.nbytes
            elements += local.numel()
        rows[name] = {"same": same, "read": read, "held": held, "elements": elements, "largest": max(counted)}
    (work / f"rank-{rank}.json").write_text(json.dumps(rows))
    dist.destroy_process_group()


def main(work: Path, processes: int, copies: int = 1) -> None:
    torch.set_num_threads(1)
    importlib.import_module("torch.distributed.tensor")
    cases = json.loads((work / "cases.json").read_text())
    plain = plainly_loaded(WorldConfig.from_dict(cases["config"]), cases["cases"])
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            one_rank(work, plain, rank, processes, copies)
            os._exit(0)
        children.append(child)
    for rank, child in enumerate(children):
        assert os.waitpid(child, 0)[1] == 0, f"process {rank} failed"


if __name__ == "__main__":
    main(Path(sys.argv[1]), *(int(word) for word in sys.argv[2:]))
