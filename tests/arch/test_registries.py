"""The HTTP API, the command line and the studio offer exactly the names of the registries."""

import importlib
import io
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from fw_app.cli import main as fw
from fw_app.options import GenerateOptions
from fw_data.annotators import BACKENDS
from fw_data.exporters import FORMATS
from fw_geometry.trajectories import PRESETS
from fw_model.layers.offload import Offload
from fw_model.pipeline.settings import Fit, GenerationSettings
from fw_model.sampling.choices import SAMPLERS
from fw_serve.api.schemas import CreateVideo
from fw_serve.intake.camera import BadCameraError, presets, read_camera
from fw_serve.options import UpOptions
from fw_train.config.load import load
from fw_train.config.schema import Stage

WORDS = Path(__file__).resolve().parents[2] / "apps" / "studio" / "src" / "words"


@pytest.fixture(scope="module")
def shown() -> str:
    out = io.StringIO()
    with redirect_stdout(out), suppress(SystemExit):
        fw(["generate", "--help"])
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", out.getvalue()).split())


def enum(part: dict[str, Any]) -> set[str]:
    """The strings that a JSON schema allows."""
    return set(part.get("enum", [])).union(*map(enum, part.get("anyOf", [])))


def test_camera_presets(shown: str) -> None:
    assert [preset["preset"] for preset in presets()] == list(PRESETS)
    for name in PRESETS:
        read_camera({"preset": name}, num_frames=5, default_num_frames=5, width=48, height=32)
    with pytest.raises(BadCameraError, match=", ".join(PRESETS)):
        read_camera({"preset": "fly"}, num_frames=5, default_num_frames=5, width=48, height=32)
    assert f"A preset ({', '.join(PRESETS)})" in shown
    for language in ("en.ts", "zh.ts"):
        text = (WORDS / language).read_text(encoding="utf-8")
        for word in ("preset", "about"):
            assert re.findall(rf"^  {word}_(\w+):", text, re.MULTILINE) == list(PRESETS), (language, word)


def test_samplers_and_fits(shown: str) -> None:
    properties = CreateVideo.model_json_schema()["properties"]
    for name, known in (("sampler", set(SAMPLERS)), ("fit", set(get_args(Fit)))):
        assert enum(properties[name]) == known
        flag = re.search(rf"--{name} {{([\w,]+)}}", shown)
        assert flag is not None
        assert set(flag[1].split(",")) - {"None"} == known


def test_every_generation_setting_is_offered(shown: str) -> None:
    names = set(GenerationSettings.__dataclass_fields__)
    assert {f"--{name.replace('_', '-')}" for name in names} <= set(re.findall(r"--[\w-]+", shown))
    assert names - {"width", "height"} <= set(CreateVideo.model_fields), "size stands for width and height"


def test_offload() -> None:
    for options in (GenerateOptions, UpOptions):
        assert get_args(get_type_hints(options)["offload"]) == get_args(Offload)


def test_the_steps_of_make_small_world_are_those_of_the_recipe() -> None:
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text(encoding="utf-8")
    found = dict(re.findall(r"\(TRAIN\) (\w+) small-world .*\(call STEPS,(\d+)\)", makefile))
    stages: tuple[Stage, ...] = ("autoencoder", "base", "stage1", "stage2")
    assert found == {stage: str(load("small-world", stage).steps) for stage in stages}


def test_every_registered_name_leads_to_what_it_promises() -> None:
    for path in (*SAMPLERS.values(), *BACKENDS.values()):
        module, _, name = path.partition(":")
        assert isinstance(getattr(importlib.import_module(module), name), type), path
    for module, name in FORMATS.values():
        assert isinstance(getattr(importlib.import_module(module), name), type), (module, name)


def test_the_places_for_something_new_exist() -> None:
    root = Path(__file__).resolve().parents[2]
    page = (root / "docs/architecture.md").read_text().split("## Where to put something new")[1]
    rows = re.findall(r"^\| (?!to add|---)(.+?) \|$", page, re.MULTILINE)
    assert {"camera preset", "attention backend", "dataset export", "loss term", "sampler", "HTTP endpoint",
            "geometry backend", "metric"} <= {row.split(" | ")[0] for row in rows}  # fmt: skip
    for row in rows:
        for cell in row.removesuffix(" |").split(" | ")[1:]:
            names = re.findall(r"`([^`]+)`", cell)
            paths = [name for name in names if ("/" in name and "(" not in name) or name == "Makefile"]
            found = [[*root.glob(path), *root.glob(f"packages/*/src/{path}")] for path in paths]
            assert all(found), f"{row}: {paths} is not in the repository"
            files = [
                file for places in found for path in places for file in (path.rglob("*.py"), [path])[path.is_file()]
            ]
            texts = [file.read_text() for file in files]
            for name in set(names) - set(paths):
                if name.isidentifier() and texts:
                    assert any(re.search(rf"\b{name}\b", text) for text in texts), f"{row}: no {name} there"
