"""Atomic files, tables and devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fw_core.devices import choose_device
from fw_core.files import LockedError, locked, make_writable, replacing, replacing_folder, write_bytes, write_text
from fw_core.tables import aligned, markdown


def fill_half_a_file(path: Path) -> None:
    with replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError


def fill_half_a_folder(folder: Path) -> None:
    with replacing_folder(folder) as partial:
        (partial / "b").write_text("2")
        raise ZeroDivisionError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.json"
    write_text(path, "old", durable=True)
    with pytest.raises(ZeroDivisionError):
        fill_half_a_file(path)
    assert path.read_text() == "old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.json"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "export"
    with replacing_folder(folder) as partial:
        (partial / "a").write_text("1")
    with pytest.raises(ZeroDivisionError):
        fill_half_a_folder(folder)
    assert [p.name for p in folder.iterdir()] == ["a"]
    with replacing_folder(folder) as partial:
        (partial / "c").write_text("3")
    assert [p.name for p in folder.iterdir()] == ["c"]
    assert [p.name for p in tmp_path.iterdir()] == ["export"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    make_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="is a file; give a folder"):
        make_writable(tmp_path / "file")
    for folder in (tmp_path / "file" / "below", Path("/proc/fw")):
        with pytest.raises(OSError, match=str(folder)):
            make_writable(folder)


def test_tables() -> None:
    assert markdown(["a", "b"], [["x|y", 2]], align="lr") == "| a | b |\n| --- | ---: |\n| x\\|y | 2 |"
    assert aligned([["a", 10], ["bcd", 2]], align="lr") == ["  a    10", "  bcd   2"]
    assert aligned([]) == []


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps"])
def test_devices_that_are_not_here_are_refused(name: str) -> None:
    assert choose_device("cpu").type == "cpu"
    assert choose_device().type in ("cpu", "cuda", "mps")
    if choose_device().type == "cpu":
        with pytest.raises(ValueError, match=name):
            choose_device(name)


def test_a_lock_admits_one_process_and_ends_with_it(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from fw_core.files import locked\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    lock = tmp_path / "run" / "lock"
    with subprocess.Popen([sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(LockedError, match=rf"process {holder.pid}.*lock"), locked(lock):
            pass
        holder.kill()
    with locked(lock):
        assert lock.read_text() == f"{os.getpid()}\n"
