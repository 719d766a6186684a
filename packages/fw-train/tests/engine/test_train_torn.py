"""Torn checkpoints, one to three of them: resume takes the newest whole one and says why it passed the others over."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fw_train.engine.checkpoint import CheckpointError, CheckpointStore, Snapshot, read

STEPS = (10, 20, 30)
FILES = ("manifest.json", "state.json", "model.safetensors", "optimizer.safetensors")
DAMAGES = ("missing", "empty", "half", "99%", "flip first", "flip middle", "flip last")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three whole checkpoints."""
    root = tmp_path_factory.mktemp("whole")
    store = CheckpointStore(root, keep=3)
    for step in STEPS:
        tensors = {"model": {"w": torch.full((5, 7), float(step))}, "optimizer": {"w/steps": torch.tensor(step)}}
        store.save(Snapshot(tensors=tensors, state={"step": step}))
    return root


def copied(whole: Path, to: Path, count: int) -> CheckpointStore:
    """A store with the first `count` of them."""
    for step in STEPS[:count]:
        shutil.copytree(whole / f"step-{step:08d}", to / f"step-{step:08d}")
    return CheckpointStore(to)


def tear(file: Path, damage: str) -> None:
    """Do to a file what a crash or a bad disk does."""
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage.startswith("flip"):
        content[{"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[damage.split()[1]]] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(content[: int(len(content) * {"empty": 0, "half": 0.5, "99%": 0.99}[damage])])


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_newest_is_torn(whole: Path, tmp_path: Path, count: int, name: str, damage: str) -> None:
    store = copied(whole, tmp_path, count)
    torn = tmp_path / f"step-{STEPS[count - 1]:08d}"
    tear(torn / name, damage)
    with pytest.raises(CheckpointError, match="step-"):
        read(torn)
    if count == 1:
        with pytest.raises(CheckpointError, match=f"(?s){torn.name}: .*{name}"):
            store.latest()
        return
    found = store.latest()
    assert found is not None
    assert found.step == STEPS[count - 2]
    assert read(found.path).state["step"] == found.step
    (reason,) = found.passed_over
    assert reason.startswith(f"{torn}: ")
    assert name in reason


def half_renamed(newest: Path) -> None:
    newest.rename(newest.with_name(f".partial-{newest.name}"))


def half_deleted(newest: Path) -> None:
    newest.rename(newest.with_name(f".trash-{newest.name}"))


def emptied(newest: Path) -> None:
    for file in newest.iterdir():
        file.unlink()


def replaced_by_a_file(newest: Path) -> None:
    shutil.rmtree(newest)
    newest.write_bytes(b"")


def with_the_manifest_of_another(newest: Path) -> None:
    shutil.copy(newest.with_name("step-00000010") / "manifest.json", newest / "manifest.json")


def manifest_of_nothing(newest: Path) -> None:
    (newest / "manifest.json").write_text('{\n "files": {},\n "format": 1\n}\n')


def manifest_is_a_folder(newest: Path) -> None:
    (newest / "manifest.json").unlink()
    (newest / "manifest.json").mkdir()


def tensors_are_a_folder(newest: Path) -> None:
    (newest / "model.safetensors").unlink()
    (newest / "model.safetensors").mkdir()


INVISIBLE = (half_renamed, half_deleted, replaced_by_a_file)
VISIBLE = (emptied, with_the_manifest_of_another, manifest_of_nothing, manifest_is_a_folder, tensors_are_a_folder)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("happened", [*INVISIBLE, *VISIBLE])
def test_the_newest_is_not_what_it_should_be(
    whole: Path, tmp_path: Path, count: int, happened: Callable[[Path], None]
) -> None:
    store = copied(whole, tmp_path, count)
    happened(tmp_path / f"step-{STEPS[count - 1]:08d}")
    found = store.latest()
    assert found is not None
    assert found.step == STEPS[count - 2]
    assert len(found.passed_over) == (happened in VISIBLE)


def test_two_are_torn(whole: Path, tmp_path: Path) -> None:
    store = copied(whole, tmp_path, 3)
    for step in (20, 30):
        tear(tmp_path / f"step-{step:08d}" / "model.safetensors", "flip middle")
    found = store.latest()
    assert found is not None
    assert found.step == 10
    assert ["step-00000030" in found.passed_over[0], "step-00000020" in found.passed_over[1]] == [True, True]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_else_lies_around_does_not_matter(whole: Path, tmp_path: Path, count: int) -> None:
    store = copied(whole, tmp_path, count)
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "step-latest").mkdir()
    found = store.latest()
    assert found is not None
    assert (found.step, found.passed_over) == (STEPS[count - 1], [])
