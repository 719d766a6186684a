"""What infra/ holds can be read, and the commands in it are commands of ours with options that exist."""

import json
import shlex
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tyro
import yaml

INFRA = Path(__file__).parents[2] / "infra"
MANIFESTS = sorted((INFRA / "kuberay").glob("*.yaml"))


def test_there_are_manifests() -> None:
    assert MANIFESTS


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_whole(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(document)


SCHEMAS = json.loads((Path(__file__).parents[1] / "fixtures/kuberay/schemas.json").read_text(encoding="utf-8"))
"""The fields that KubeRay's custom resources accept; fixtures/kuberay/shrink.py makes the file."""


def problems(resource: dict[str, Any]) -> list[str]:
    """Where a resource differs from KubeRay's schema."""
    schema = {**SCHEMAS["kinds"][resource["kind"]], "$defs": SCHEMAS["$defs"]}
    found = jsonschema.Draft202012Validator(schema).iter_errors(resource)
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_follow_the_schemas_of_kuberay(path: Path) -> None:
    (resource,) = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    assert resource["apiVersion"] == "ray.io/v1"
    assert problems(resource) == []
    wrong = deepcopy(resource)
    cluster = wrong["spec"].get("rayClusterSpec") or wrong["spec"]["rayClusterConfig"]
    group = cluster["workerGroupSpecs"][0]
    group["replica"] = group.pop("replicas")
    group["template"]["spec"]["containers"][0]["volumeMount"] = []
    cluster["headGroupSpec"]["rayStartParams"] = {"num-cpus": 0}  # a string in Kubernetes
    found = "\n".join(problems(wrong))
    assert len(problems(wrong)) == 3, found
    assert all(mistake in found for mistake in ("'replica' was", "'volumeMount' was", "num-cpus: 0 is not")), found


def test_the_annotation_cluster_scales_to_the_workers_that_the_command_wants() -> None:
    from fw_data.options import AnnotateOptions

    job = yaml.safe_load((INFRA / "kuberay" / "annotate.yaml").read_text(encoding="utf-8"))
    options = tyro.cli(AnnotateOptions, args=shlex.split(job["spec"]["entrypoint"])[2:])
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"]
    (group,) = cluster["workerGroupSpecs"]
    cpus = float(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert options.workers == group["maxReplicas"] * cpus / options.cpus_per_worker


def test_the_annotation_job_runs_a_command_that_exists() -> None:
    from fw_data.options import AnnotateOptions

    job = yaml.safe_load((INFRA / "kuberay" / "annotate.yaml").read_text(encoding="utf-8"))
    program, command, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, command) == ("fw-data", "annotate")
    options = tyro.cli(AnnotateOptions, args=words)
    assert options.engine == "ray"
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    room = [group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] for group in groups]
    assert all(float(cpus) >= options.cpus_per_worker for cpus in room)


def test_the_training_job_runs_a_command_that_exists() -> None:
    from fw_train.config.check import check
    from fw_train.config.flags import override
    from fw_train.config.schema import TrainConfig

    job = yaml.safe_load((INFRA / "kuberay" / "train.yaml").read_text(encoding="utf-8"))
    program, stage, _toml, *words = shlex.split(job["spec"]["entrypoint"])
    assert (program, stage) == ("fw-train", "stage1")
    config = check(override(TrainConfig(stage="stage1"), words, prog="fw-train"))
    assert (config.launcher, config.go_on) == ("ray", True)
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    limits = [(g["replicas"], g["template"]["spec"]["containers"][0]["resources"]["limits"]) for g in groups]
    assert sum(replicas * int(room["nvidia.com/gpu"]) for replicas, room in limits) == config.workers


def test_the_ray_service_starts_what_the_command_starts() -> None:
    from fw_serve.options import UpOptions
    from fw_serve.prepare import _check_engine

    service = yaml.safe_load((INFRA / "kuberay" / "serve.yaml").read_text(encoding="utf-8"))
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    (application,) = config["applications"]
    assert application["import_path"] == "fw_serve.ray:build"
    options = UpOptions(**application["args"], engine="ray")
    _check_engine(options)
    assert options.host == config["http_options"]["host"], "the keys are asked for by the address that is listened on"
    cluster = service["spec"]["rayClusterConfig"]
    groups = [(g["replicas"], g["template"]["spec"]["containers"][0]) for g in cluster["workerGroupSpecs"]]
    limits = [(count, pod["resources"]["limits"]) for count, pod in groups]
    assert options.workers is not None
    assert options.replicas is not None
    assert options.cpus_per_worker is not None
    assert options.gpus_per_worker is not None
    gpus = sum(count * int(room["nvidia.com/gpu"]) for count, room in limits)
    assert gpus == options.workers * options.gpus_per_worker
    cpus = sum(count * float(room["cpu"]) for count, room in limits)
    assert cpus >= options.workers * options.cpus_per_worker + 0.5 * options.replicas
    pods = [pod for _, pod in groups] + cluster["headGroupSpec"]["template"]["spec"]["containers"]
    assert all("FW_SERVE_DATABASE" in {variable["name"] for variable in pod["env"]} for pod in pods)


def test_the_slurm_script_runs_what_the_launcher_runs() -> None:
    from fw_train.config.flags import override
    from fw_train.config.schema import TrainConfig
    from fw_train.launch.torchrun import ENVIRONMENT, command

    script = INFRA / "slurm" / "train.sbatch"
    subprocess.run(["bash", "-n", str(script)], check=True)
    text = script.read_text(encoding="utf-8")
    for name, value in ENVIRONMENT.items():
        assert f"export {name}={value}" in text
    ours = command(["stage1", "run.toml"], workers=2, restarts=3)
    module = ours[ours.index("-m", 3) + 1]
    started = text[text.rindex("torchrun \\") :].replace("\\\n", " ").split()
    assert started[started.index("-m") + 1] == module
    assert "--max-restarts=3" in started
    words = started[started.index('"$@"') + 1 :]
    assert override(TrainConfig(stage="stage1"), words, prog="fw-train").go_on
