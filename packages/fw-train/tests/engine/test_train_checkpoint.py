"""The checkpoint store: what it writes and keeps, full disks, and saves beside the work; see also test_train_torn."""

import json
import resource
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fw_train.engine.checkpoint import CheckpointError, CheckpointStore, Saver, Snapshot, defect, read

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
    with pytest.raises(CheckpointError, match="No space left"):
        failing.save(snapshot(30))
    assert {p.name for p in store.root.iterdir()} == {"step-00000010", "step-00000020"}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond `size` bytes, as a full disk or a quota does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 100, 350])
def test_a_disk_that_really_refuses_is_the_same_clear_error(store: CheckpointStore, size: int) -> None:
    with (
        largest_file(size),
        pytest.raises(CheckpointError, match="step-00000030"),
    ):
        store.save(snapshot(30))
    assert {p.name for p in store.root.iterdir()} == {"step-00000010", "step-00000020"}
    found = store.latest()
    assert found is not None
    assert found.step == 20


def test_a_saver_writes_beside_the_work_and_says_when_it_is_done(tmp_path: Path) -> None:
    go = threading.Event()

    def held_up(_path: Path) -> None:
        go.wait(10)

    saver = Saver(CheckpointStore(tmp_path, on_write=held_up))
    assert (saver.finished(), saver.wait()) == (None, None)
    saver.start(snapshot(1))
    assert saver.finished() is None
    go.set()
    assert saver.wait() == tmp_path / "step-00000001"
    assert defect(tmp_path / "step-00000001") is None
    saver.start(snapshot(2))
    saver.close()
    assert saver.finished() == tmp_path / "step-00000002"


def test_a_saver_hands_on_what_went_wrong(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    saver = Saver(CheckpointStore(tmp_path / "file" / "folder"))
    saver.start(snapshot(1))
    with pytest.raises(CheckpointError, match="step-"):
        saver.wait()
    saver.close()
    assert saver.finished() is None
