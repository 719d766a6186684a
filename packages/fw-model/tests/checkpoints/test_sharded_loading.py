"""Models that FSDP2 has sharded over 3 and 4 gloo processes: each reads its own rows, and they equal a plain load."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from fw_model.checkpoints.checkpoint import save_world
from fw_model.checkpoints.keys import to_diffusers, to_released, to_wan
from fw_model.config import WorldConfig
from fw_model.model.model import FantasyWorld

DRIVER = Path(__file__).with_name("shard_driver.py")


@pytest.fixture(scope="module")
def cases(world: FantasyWorld, micro: WorldConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Name -> folder, how it is loaded, type of the parameters."""
    root = tmp_path_factory.mktemp("files")
    pcb = micro.pcb_blocks
    parameters = {name: parameter.detach().contiguous() for name, parameter in world.named_parameters()}
    video = {name: value for name, value in parameters.items() if world.parameter_group(name) == "video"}
    save_world(world, root / "single")
    save_world(world, root / "indexed", shard_bytes=200_000)
    save_world(world, root / "half", dtype=torch.bfloat16)
    save_world(world, root / "fp8", dtype=torch.float8_e4m3fn)
    others = {
        "released": {to_released(name): value for name, value in parameters.items()},
        "prefixed": {f"model.diffusion_model.{to_wan(name, pcb)}": value for name, value in video.items()},
        "diffusers": {to_diffusers(name, pcb): value for name, value in video.items()},
    }
    for name, state in others.items():
        (root / name).mkdir()
        save_file(state, root / name / "model.safetensors")
    how = {"prefixed": "backbone", "diffusers": "backbone"}
    names = ["single", "indexed", "half", "fp8", *others]
    made = {name: [str(root / name), how.get(name, "weights"), "float32"] for name in names}
    made["half as it is"] = [str(root / "half"), "weights", "bfloat16"]
    return made


def stored_bytes(folder: str) -> tuple[int, int]:
    """Bytes and elements of all tensors of a folder."""
    sizes = []
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, "pt") as handle:
            sizes += [(t.nbytes, t.numel()) for t in (handle.get_tensor(name) for name in handle.keys())]  # noqa: SIM118
    return sum(size for size, _ in sizes), sum(count for _, count in sizes)


@pytest.mark.parametrize(("processes", "copies", "chosen"), [(3, 1, ""), (4, 2, "indexed")])
def test_every_process_reads_its_rows_and_nothing_else(
    cases: dict[str, list[str]], micro: WorldConfig, tmp_path: Path, processes: int, copies: int, chosen: str
) -> None:
    cases = {name: case for name, case in cases.items() if chosen in name}
    (tmp_path / "cases.json").write_text(json.dumps({"config": micro.to_dict(), "cases": cases}))
    words = [sys.executable, str(DRIVER), str(tmp_path), str(processes), str(copies)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(processes)]
    for name, (folder, _, _) in cases.items():
        rows = [rank[name] for rank in ranks]
        assert all(row["same"] for row in rows), name
        total, elements = stored_bytes(folder)
        width = total // elements
        assert [row["read"] for row in rows] == [width * row["elements"] for row in rows], name
        assert sum(row["read"] for row in rows) == copies * total, name  # every byte once in a group
        # sums over many tensors even out, except for rows that cannot be divided
        assert max(row["read"] for row in rows) < 1.15 * copies * total / processes, name
