"""Launch processes on this machine with torchrun, which restarts them if one is lost.

For several machines, start torchrun on each of them: see infra/slurm/train.sbatch.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fw_train.config.schema import TrainConfig

ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it, restarted processes read stale entries of their predecessors from the store and hang
(pytorch issue 135712, seen with torch 2.13 and gloo)."""


def command(words: Sequence[str], *, workers: int, restarts: int) -> list[str]:
    """The torchrun command line for an `fw-train` command line; every process resumes the run in `out`."""
    again = ["--launcher", "local", "--workers", "1", "--restarts", str(TrainConfig().restarts), "--go-on"]
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *(f"--nproc-per-node={workers}", f"--max-restarts={restarts}"),
        *("-m", "fw_train.cli", *words, *again),
    ]


def become_torchrun(words: Sequence[str], *, workers: int, restarts: int) -> NoReturn:
    """Replace this process by torchrun, so that signals reach it and its exit code is the run's."""
    sys.stdout.flush()
    os.execve(sys.executable, command(words, workers=workers, restarts=restarts), {**os.environ, **ENVIRONMENT})
