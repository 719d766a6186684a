"""What starts the processes of a run: this one alone, torchrun on this machine, or Ray Train on a cluster.

The processes themselves are the same everywhere: each runs `fw_train.train` and finds its rank in the environment.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fw_train.config.load import holds_run
from fw_train.config.schema import TrainConfig

if TYPE_CHECKING:
    from fw_train.tasks.train import Outcome


def launch(config: TrainConfig, words: Sequence[str]) -> "Outcome":
    """Run `config` in the way that it names; with torchrun this process becomes torchrun and nothing returns.

    Args:
        config: a new run, or with `go_on` one that may have begun.
        words: the `fw-train` command line that says the same, for processes to repeat.

    Raises:
        ConfigError: `out` is not set, or holds a run and `go_on` is not; see also `fw_train.train`.
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
