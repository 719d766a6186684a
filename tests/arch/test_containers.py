"""The image, compose.yaml, the systemd unit and the dashboard: what they name exists, and nothing is careless."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tyro
import yaml

from fw_serve.http.metrics import Metrics
from fw_serve.jobs.fleet import Fleet
from fw_serve.jobs.store import JobStore
from fw_serve.options import UpOptions
from fw_serve.prepare import _check_engine
from fw_serve.storage import JobStorage

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
COMPOSE = INFRA / "compose.yaml"
DOCKERFILE = INFRA / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(words[0], words[1]) for words in lines]


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage, those of the stages it begins from first."""
    found: dict[str, list[tuple[str, str]]] = {}
    name = ""
    for word, rest in instructions():
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found[name] = list(found.get(base, [("FROM", base)]))
        else:
            found[name].append((word, rest))
    return found


def serve_options(command: str) -> UpOptions:
    """Options of a `fw-serve up` line, as the command itself reads them."""
    program, verb, *words = shlex.split(command)
    assert (Path(program).name, verb) == ("fw-serve", "up")
    options = tyro.cli(UpOptions, args=words)
    _check_engine(options)
    return options


def test_the_image_is_built_from_what_there_is() -> None:
    programs: set[str] = set()
    for word, rest in instructions():
        if word == "COPY" and "--from" not in rest:
            *sources, _target = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
        for path, extras in re.findall(r"\./((?:packages|apps)/[\w-]+)(?:\[([\w,]+)\])?", rest):
            project = tomllib.loads((ROOT / path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
            programs |= set(project.get("scripts", {}))
            assert set(filter(None, extras.split(","))) <= set(project.get("optional-dependencies", {})), path
    assert json.loads(dict(instructions())["CMD"])[0] in programs
    installed = [
        re.findall(r"\./((?:packages|apps)/[\w-]+)", rest) for word, rest in instructions() if "uv pip" in rest
    ]
    ours = {path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/*/pyproject.toml")}
    assert [set(paths) for paths in installed if paths] == [ours, ours]


def test_the_image_is_small_reproducible_and_not_root() -> None:
    made = stages()
    assert {"cpu", "cuda"} <= set(made)
    for name in ("cpu", "cuda"):
        stage = made[name]
        (base,) = [rest for word, rest in stage if word == "FROM"]
        assert re.fullmatch(r"[a-z]+:[0-9][\w.-]+", base), f"{base} has no version"
        users = [rest for word, rest in stage if word == "USER"]
        assert users
        assert all(int(user.split(":")[0]) > 0 for user in users), "a number: Kubernetes checks it"
        assert f"--from={name}-builder " in next(rest for word, rest in stage if word == "COPY")
        assert not [rest for word, rest in stage if "uv " in rest], "the tools that build stay in the stage that builds"
    for word, rest in instructions():
        assert word != "ADD", "COPY does no more than it says"
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists" in rest
        if "pip install" in rest and "uv pip" not in rest:
            assert re.search(r"==[0-9]", rest), "a tool without a version"
        if "uv pip install" in rest:
            assert "--constraints requirements.lock" in rest
        assert not re.search(r"(?i)(password|secret|token)=", rest)


def test_nothing_private_goes_into_the_image() -> None:
    rules = (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").split("\n")
    assert next(rule for rule in rules if rule and not rule.startswith("#")) == "*", "what is not named stays out"
    assert {"**/tests", "**/.env"} <= set(rules)


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))


def test_compose_runs_commands_that_exist_on_what_there_is() -> None:
    whole = compose()
    services = whole["services"]
    assert set(services) == {"api", "worker", "database", "prometheus", "grafana"}
    api, worker = (serve_options(services[name]["command"]) for name in ("api", "worker"))
    assert (api.only, worker.only, api.data, api.checkpoint) == ("api", "workers", worker.data, worker.checkpoint)
    for name, service in services.items():
        built = service.get("build")
        if built is not None:
            assert (COMPOSE.parent / built["context"] / built["dockerfile"]).resolve() == DOCKERFILE
            assert built["target"] in stages()
        else:
            assert re.fullmatch(r"[a-z/]+:v?[0-9][\w.-]+", service["image"]), f"{name} has no version"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (INFRA / source).is_dir(), volume
            elif not source.startswith("$"):
                assert source in whole["volumes"], volume
        assert set(service.get("depends_on", [])) <= set(services)
        assert set(service.get("secrets", [])) <= set(whole["secrets"])
        assert service["restart"] == "unless-stopped"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "open to this machine only"
    over = yaml.safe_load((INFRA / "compose.cuda.yaml").read_text(encoding="utf-8"))["services"]
    assert all(service["build"]["target"] == "cuda" for service in over.values())
    assert set(over) == {name for name, service in services.items() if "build" in service}


def test_compose_checks_its_own_files(tmp_path: Path) -> None:
    command = _compose_command()
    if command is None:
        pytest.skip("neither `docker compose` nor `docker-compose` is installed")
    shutil.copytree(INFRA, tmp_path / "infra")
    (tmp_path / "infra" / "metrics.key").touch()
    where = {**os.environ, "FW_DATABASE_PASSWORD": "x", "FW_CHECKPOINT": str(tmp_path)}
    files = ["-f", "compose.yaml", "-f", "compose.cuda.yaml"]
    for chosen in (files[:2], files):
        done = subprocess.run(
            [*command, *chosen, "config", "--quiet"], cwd=tmp_path / "infra", env=where, capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stderr


def _compose_command() -> list[str] | None:
    if shutil.which("docker-compose"):
        return ["docker-compose"]
    if shutil.which("docker") is None:
        return None
    known = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
    return ["docker", "compose"] if known else None


@pytest.fixture(scope="module")
def metrics_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("metrics")
    store = JobStore(f"sqlite:///{folder / 'jobs.db'}")
    metrics = Metrics(store, Fleet(store), JobStorage(folder))
    metrics.request("GET", "/v1/videos", 200, 0.1)
    text = metrics.text().decode()
    store.close()
    return text


def expressions() -> list[str]:
    """Every PromQL expression of the dashboard and of the alerts."""
    board = json.loads((INFRA / "grafana" / "dashboards" / "serve.json").read_text(encoding="utf-8"))
    rules = yaml.safe_load((INFRA / "prometheus" / "alerts.yaml").read_text(encoding="utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return asked + [rule["expr"] for group in rules["groups"] for rule in group["rules"]]


def test_every_metric_that_is_asked_for_exists(metrics_text: str) -> None:
    told = set(re.findall(r"^# TYPE (\w+) ", metrics_text, re.MULTILINE))
    told |= {f"{name}_{part}" for name in told for part in ("bucket", "count", "sum")}
    asked = {name for text in expressions() for name in re.findall(r"\bfw_\w+", text)}
    assert asked
    assert asked <= told
    whole = {name.removesuffix("_bucket") for name in asked}
    assert {name for name in told if not name.endswith(("_bucket", "_count", "_sum", "_created"))} == whole


def test_expressions_are_balanced_and_use_labels_that_exist(metrics_text: str) -> None:
    labels = set(re.findall(r'[{,](\w+)="', metrics_text)) | {"outcome"}  # no job has ended yet
    for text in expressions():
        for left, right in ("()", "{}", "[]"):
            assert text.count(left) == text.count(right), text
        used = set(re.findall(r"[{,](\w+)\s*[!=]~?\"", text))
        used |= {name for names in re.findall(r"\b(?:by|ignoring)\s*\(([^)]*)\)", text) for name in names.split(", ")}
        assert used <= labels, text


def test_prometheus_asks_the_service_with_its_key() -> None:
    whole = compose()
    config = yaml.safe_load((INFRA / "prometheus" / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    assert int(port) == serve_options(whole["services"][name]["command"]).port
    (secret,) = whole["services"]["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    (mounted,) = [v for v in whole["services"]["prometheus"]["volumes"] if v.startswith("./")]
    folder = mounted.split(":")[1]
    assert all((INFRA / "prometheus" / Path(rule).relative_to(folder)).is_file() for rule in config["rule_files"])
    (board,) = (INFRA / "grafana" / "provisioning" / "dashboards").glob("*.yaml")
    place = yaml.safe_load(board.read_text(encoding="utf-8"))["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{place}:ro" in whole["services"]["grafana"]["volumes"]


def test_the_unit_starts_the_service(tmp_path: Path) -> None:
    unit = (INFRA / "systemd" / "fw-serve.service").read_text(encoding="utf-8")
    settings = dict(line.split("=", 1) for line in unit.splitlines() if re.match(r"\w+=", line))
    options = serve_options(settings["ExecStart"])
    assert (options.host, options.only) == ("127.0.0.1", None)
    assert str(options.data).startswith(f"/var/lib/{settings['StateDirectory']}/")
    assert float(settings["TimeoutStopSec"]) > options.stop_s
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    program = settings["ExecStart"].split()[0]
    copy = tmp_path / "fw-serve.service"
    copy.write_text(unit.replace(program, sys.executable), encoding="utf-8")  # the program is not installed here
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
