"""Start the processes of a run: this process only, torchrun on this machine, or Ray Train on a cluster.

All launchers start the same process: it runs `fw_train.train` and reads its rank from the environment.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fw_train.config.load import holds_run
from fw_train.config.schema import TrainConfig

if TYPE_CHECKING:
    from fw_train.tasks.train import Outcome


def launch(config: TrainConfig, words: Sequence[str]) -> "Outcome":
    """Run `config` with its launcher; torchrun replaces this process, so the call does not return.

    Args:
        config: a new run, or an existing one with `go_on`.
        words: the equivalent `fw-train` command line, for the processes of torchrun.

    Raises:
        ConfigError: `out` is not set, or contains a run without `go_on`; see also `fw_train.train`.
    """
    if config.launcher == "torchrun":
        from fw_train.launch.torchrun import become_torchrun

        holds_run(config)
        become_torchrun(words, workers=config.workers, restarts=config.restarts)
    if config.launcher == "ray":
        from fw_train.launch.ray import fit

        holds_run(config)
        return fit(config)
    from fw_train.tasks.train import train

    return train(config)
