"""`fw-serve up`: which checkpoint the workers are told to load, before anything is started."""

from pathlib import Path
from typing import Any

import pytest

from fw_model.checkpoints import shipped
from fw_model.checkpoints.shipped import SMALL_WORLD
from fw_serve.options import UpOptions
from fw_serve.prepare import on_devices, prepare
from fw_serve.settings import WorkerSettings


def loaded(folder: Path, checkpoint: str = SMALL_WORLD) -> object:
    _, (worker, *_) = prepare(UpOptions(data=folder / "data", checkpoint=checkpoint))
    return worker.options["checkpoint"]


def test_without_a_checkpoint_the_shipped_weights_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "__file__", str(tmp_path / "checkpoints" / "shipped.py"))
    assert UpOptions().checkpoint == SMALL_WORLD
    with pytest.raises(ValueError, match="small-world"):
        loaded(tmp_path)
    assert not (tmp_path / "data").exists()
    (tmp_path / "small_world").mkdir()
    (tmp_path / "small_world" / "pipeline.json").write_text("{}")
    assert loaded(tmp_path) == SMALL_WORLD, "a name: a worker on another machine has a folder of its own"


def test_a_folder_is_made_absolute_and_a_hub_id_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "export").mkdir()
    assert loaded(tmp_path, checkpoint="export") == str(tmp_path / "export")
    assert loaded(tmp_path, checkpoint="owner/name") == "owner/name"
    with pytest.raises(ValueError, match="absent"):
        loaded(tmp_path, checkpoint="absent")


def test_every_model_has_a_worker_per_device(tmp_path: Path) -> None:
    (tmp_path / "large").mkdir()
    style = tmp_path / "style.safetensors"
    style.touch()
    options = UpOptions(
        data=tmp_path / "data", device=("cuda:0", "cuda:1"), model=(f"large={tmp_path / 'large'}",),
        lora=(f"film={style}:0.5", f"plain={style}"), max_attempts=5, stop_s=2.0,
    )  # fmt: skip
    settings, workers = prepare(options)
    started = on_devices(workers, options.device)
    assert [(worker.options["name"], worker.options["device"]) for worker in started] == [
        (None, "cuda:0"), (None, "cuda:1"), ("large", "cuda:0"), ("large", "cuda:1"),
    ]  # fmt: skip
    assert started[0].options["loras"] == {"film": [str(style), 0.5], "plain": [str(style), 1.0]}
    assert {(worker.max_attempts, worker.stop_s, worker.job_timeout_s) for worker in started} == {(5, 2.0, 3600.0)}
    assert (settings.limits.frames, settings.limits.pixels) == (None, None), "those of the model"


@pytest.mark.parametrize(
    ("devices", "cuda", "expected"),
    [
        (("cpu",), 0, [("cpu", "cpu")]),
        (("auto",), 4, [("cuda:0", "cuda:1")]),
        (("cuda:3", "cuda:1", "cuda", "cuda:0"), 4, [("cuda:3", "cuda:1"), ("cuda:2", "cuda:0")]),
        (("auto",), 0, "no CUDA devices; --device cpu"),
        (("auto",), 1, "no cuda:1; this machine has 1 CUDA devices"),
        (("cuda:0", "cuda:1", "cuda:2"), 4, "3 devices form no groups of 2"),
        (("cuda:1", "cuda:1"), 2, "cuda:1 cuda:1 is no group"),
        (("cpu", "cuda:0"), 1, "cpu cuda:0 is no group"),
        (("mps", "mps"), 0, "mps is neither"),
    ],
)
def test_every_n_devices_are_a_worker(
    monkeypatch: pytest.MonkeyPatch, devices: tuple[str, ...], cuda: int, expected: list[tuple[str, ...]] | str
) -> None:
    monkeypatch.setattr("fw_serve.prepare._cuda_devices", lambda: cuda)
    worker = WorkerSettings(database="", data="", name="")
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"--parallel 2 with --device {devices[0]}.*{expected}"):
            on_devices([worker], devices, 2)
    else:
        assert [one.devices for one in on_devices([worker], devices, 2)] == expected


def test_a_torch_that_does_not_start_is_an_error_of_the_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValueError, match=r"--parallel.*libcudart\.so is missing$"):
        on_devices([WorkerSettings(database="", data="", name="")], ("auto",), 2)
    assert capsys.readouterr().out == "checking CUDA devices ...\n"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"model": ("large",)}, "--model large"),
        ({"lora": ("style=absent.safetensors",)}, "--lora style"),
        ({"allow_origin": ("*",)}, r"--allow-origin \*"),
        ({"root_path": "worlds"}, "--root-path worlds"),
        ({"webhook_host": ("hooks.example.org",)}, "FW_SERVE_WEBHOOK_SECRET"),
        ({"max_attempts": 0}, "--max-attempts is 0"),
        ({"parallel": 0}, "--parallel is 0"),
        ({"stop_s": -1.0}, "--stop-s is -1"),
        ({"job_timeout_s": -1.0}, "--job-timeout-s is -1"),
    ],
)
def test_options_that_cannot_be_are_named(tmp_path: Path, given: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        prepare(UpOptions(data=tmp_path / "data", **given))
