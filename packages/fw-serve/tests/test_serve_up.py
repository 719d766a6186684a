"""`fw-serve up`: which checkpoint the workers are told to load, before anything is started."""

from pathlib import Path

import pytest

from fw_model.checkpoints import shipped
from fw_model.checkpoints.shipped import SMALL_WORLD
from fw_serve.options import UpOptions
from fw_serve.prepare import prepare


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
