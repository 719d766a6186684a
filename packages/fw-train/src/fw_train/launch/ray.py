"""Launch processes on a Ray cluster with Ray Train, which restarts them if one is lost.

Ray transfers only the configuration: checkpoints, log and export are files in `out`, which all nodes must mount under
the same path. Restarted workers resume from the newest complete checkpoint there.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fw_train.config.load import absolute
from fw_train.config.preflight import check_unlocked
from fw_train.config.schema import ConfigError, TrainConfig

if TYPE_CHECKING:
    from fw_train.tasks.train import Outcome

FOLDER = "ray"
"""Folder of Ray Train's files in `out`."""
REFUSAL = "refused.json"
"""File with the error of the workers, if a restart would repeat it."""


def fit(config: TrainConfig) -> "Outcome":
    """Train on `config.workers` Ray workers until the run is done or has failed `config.restarts` times.

    Joins the cluster in RAY_ADDRESS, or starts one on this machine for the duration of the run.

    Raises:
        ConfigError: Ray Train is not installed, or a worker refused the run.
        TrainingDivergedError, CheckpointError: as in `fw_train.tasks.train.train`.
        RuntimeError: workers were lost too often.
    """
    ray = _import_ray()
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    config = absolute(config)  # workers have another working directory
    assert config.out is not None
    out = config.out
    check_unlocked(out)
    out.mkdir(parents=True, exist_ok=True)
    refusal = out / FOLDER / REFUSAL
    refusal.unlink(missing_ok=True)
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=True, object_store_memory=None if "RAY_ADDRESS" in os.environ else 128 << 20)
    try:
        tree = dataclasses.replace(config, out=out, launcher="local", workers=1, go_on=True).to_json()
        trainer = TorchTrainer(
            work,
            train_loop_config={"run": tree},
            scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=_wants_gpu(ray, config)),
            run_config=RunConfig(
                name=FOLDER, storage_path=str(out), failure_config=FailureConfig(max_failures=config.restarts)
            ),
        )
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        reason = " ".join(str(error).split())
        raise RuntimeError(f"Ray Train gave up after {config.restarts} restarts: {reason[:600]}") from None
    finally:
        if started:
            ray.shutdown()
    return _outcome(out, refusal)


def work(loop_config: dict[str, Any]) -> None:
    """Train in a Ray worker; errors that a restart would repeat are written to a file."""
    from fw_train.config.load import from_json
    from fw_train.engine.checkpoint import CheckpointError
    from fw_train.engine.loop import TrainingDivergedError
    from fw_train.tasks.train import train

    config = from_json(loop_config["run"])
    assert config.out is not None
    try:
        train(config)
    except (ConfigError, TrainingDivergedError, CheckpointError) as error:
        refusal = config.out / FOLDER / REFUSAL
        refusal.parent.mkdir(exist_ok=True)
        refusal.write_text(json.dumps({"kind": type(error).__name__, "message": str(error)}), encoding="utf-8")


def _outcome(out: Path, refusal: Path) -> "Outcome":
    from fw_train.engine.checkpoint import CheckpointError, CheckpointStore, OtherRunError
    from fw_train.engine.loop import Result, TrainingDivergedError
    from fw_train.tasks.train import CHECKPOINTS, EXPORT, Outcome

    if refusal.exists():
        error = json.loads(refusal.read_text(encoding="utf-8"))
        kinds: dict[str, type[Exception]] = {
            kind.__name__: kind for kind in (ConfigError, TrainingDivergedError, CheckpointError, OtherRunError)
        }
        raise kinds[error["kind"]](error["message"])
    found = CheckpointStore(out / CHECKPOINTS).latest()
    assert found is not None, "a finished run has a checkpoint"
    return Outcome(Result("finished", found.step, found.path), out / EXPORT)


def _wants_gpu(ray: Any, config: TrainConfig) -> bool:
    if config.compute.device == "auto":
        return ray.cluster_resources().get("GPU", 0) >= config.workers
    return config.compute.device.startswith("cuda")


def _import_ray() -> Any:
    try:
        import ray
        import ray.train
    except ImportError:
        raise ConfigError(
            "launcher = ray: Ray Train is not installed; install the extra fw-train[ray], or use torchrun"
        ) from None
    return ray
