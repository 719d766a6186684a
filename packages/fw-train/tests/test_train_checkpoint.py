"""The checkpoint store against torn writes: every file, missing, cut or flipped, must lead to the one before."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from fw_train.checkpoint import CheckpointError, CheckpointStore, Snapshot, defect, read

FILES = ("manifest.json", "state.json", "model.safetensors", "optimizer.safetensors")


def snapshot(step: int) -> Snapshot:
    generator = torch.Generator().manual_seed(step)
    model = {"w": torch.randn(5, 7, generator=generator), "b": torch.randn(7, generator=generator).bfloat16()}
    return Snapshot(tensors={"model": model, "optimizer": {"w/step": torch.tensor(float(step))}}, state={"step": step})


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path / "checkpoints", keep=3)
    for step in (10, 20):
        store.save(snapshot(step))
    return store


def test_what_is_written_is_read_back(store: CheckpointStore) -> None:
    found = store.latest()
    assert found is not None
    assert (found.step, found.passed_over) == (20, [])
    back, wrote = read(found.path), snapshot(20)
    assert back.state == {"step": 20}
    for stem, tensors in wrote.tensors.items():
        for name, tensor in tensors.items():
            assert back.tensors[stem][name].dtype == tensor.dtype
            assert torch.equal(back.tensors[stem][name], tensor)


def test_no_pickles_and_nothing_hidden_is_left(store: CheckpointStore) -> None:
    names = {p.name for p in store.root.rglob("*")}
    assert names == {"step-00000010", "step-00000020", *FILES}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "99%", "flip first", "flip middle", "flip last"])
def test_a_torn_newest_checkpoint_is_passed_over_with_a_reason(store: CheckpointStore, name: str, damage: str) -> None:
    file = store.root / "step-00000020" / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage.startswith("flip"):
        at = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[damage.split()[1]]
        content[at] ^= 1
        file.write_bytes(content)
    else:
        share = {"empty": 0, "half": 0.5, "99%": 0.99}[damage]
        file.write_bytes(content[: int(len(content) * share)])
    found = store.latest()
    assert found is not None
    assert found.step == 10
    assert len(found.passed_over) == 1
    assert str(store.root / "step-00000020") in found.passed_over[0]
    assert name in found.passed_over[0]
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        read(store.root / "step-00000020")


def test_every_single_flipped_byte_of_the_manifest_shows(store: CheckpointStore) -> None:
    folder = store.root / "step-00000010"
    whole = (folder / "manifest.json").read_bytes()
    for at in range(len(whole)):
        torn = bytearray(whole)
        torn[at] ^= 2
        (folder / "manifest.json").write_bytes(torn)
        assert defect(folder) is not None, f"byte {at}"
    (folder / "manifest.json").write_bytes(whole)
    assert defect(folder) is None


def test_all_torn_is_an_error_that_lists_each(store: CheckpointStore) -> None:
    for folder in store.folders():
        (folder / "state.json").unlink()
    with pytest.raises(CheckpointError) as error:
        store.latest()
    assert "step-00000010" in str(error.value)
    assert "step-00000020" in str(error.value)


def test_only_the_newest_are_kept(store: CheckpointStore) -> None:
    for step in (30, 40, 100000000):
        store.save(snapshot(step))
    assert [p.name for p in store.folders()] == ["step-00000030", "step-00000040", "step-100000000"]


def test_leftovers_of_a_killed_write_are_invisible_and_cleared(store: CheckpointStore) -> None:
    shutil.copytree(store.root / "step-00000020", store.root / ".partial-step-00000030")
    found = store.latest()
    assert found is not None
    assert (found.step, found.passed_over) == (20, [])
    assert store.clear_partial() == [".partial-step-00000030"]
    assert store.clear_partial() == []


def test_saving_over_a_torn_one_replaces_it_and_over_a_whole_one_keeps_it(store: CheckpointStore) -> None:
    folder = store.root / "step-00000020"
    (folder / "model.safetensors").write_bytes(b"")
    store.save(snapshot(20))
    assert defect(folder) is None
    before = (folder / "manifest.json").stat().st_mtime_ns
    store.save(snapshot(20))
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    one = CheckpointStore(tmp_path / "one").save(snapshot(3))
    two = CheckpointStore(tmp_path / "two").save(snapshot(3))
    assert (one / "manifest.json").read_bytes() == (two / "manifest.json").read_bytes()
    assert set(json.loads((one / "manifest.json").read_text())["files"]) == set(FILES) - {"manifest.json"}


def test_a_full_disk_is_a_clear_error_and_leaves_the_earlier_ones(store: CheckpointStore) -> None:
    def full(path: Path) -> None:
        if path.name == "state.json":
            raise OSError(28, "No space left on device")

    failing = CheckpointStore(store.root, on_write=full)
    with pytest.raises(CheckpointError, match=r"No space left.*Earlier checkpoints are intact"):
        failing.save(snapshot(30))
    assert {p.name for p in store.root.iterdir()} == {"step-00000010", "step-00000020"}
