"""Several processes on this machine by torchrun, which starts them again when one is lost.

Across machines torchrun is started on each of them: see infra/slurm/train.sbatch.
"""

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from fw_train.config.schema import TrainConfig

ENVIRONMENT = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Without it, processes that torchrun starts again meet what their predecessors left in the store, and hang
(pytorch issue 135712, seen with torch 2.13 and gloo)."""


def command(words: Sequence[str], *, workers: int, restarts: int) -> list[str]:
    """The torchrun command line for an `fw-train` one; every process goes on with what `out` holds."""
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
