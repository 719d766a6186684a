"""Atomic files, tables and devices."""

from pathlib import Path

import pytest

from fw_core.devices import choose_device
from fw_core.files import replacing, replacing_folder, write_bytes, write_text
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
