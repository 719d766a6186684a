"""What infra/ holds can be read, and the commands in it are commands of ours with options that exist."""

import shlex
from pathlib import Path

import pytest
import tyro
import yaml

INFRA = Path(__file__).parents[2] / "infra"
MANIFESTS = sorted(INFRA.rglob("*.yaml"))


def test_there_are_manifests() -> None:
    assert MANIFESTS


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_manifests_are_whole(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        assert {"apiVersion", "kind", "metadata", "spec"} <= set(document)


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
