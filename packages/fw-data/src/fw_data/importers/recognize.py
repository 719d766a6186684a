"""Which format a folder has: `fw-data import --format auto`.

Axis legend: none.
"""

from importlib import import_module
from pathlib import Path

from fw_data.errors import DataError
from fw_data.importers import FORMATS, LAYOUTS
from fw_geometry.formats import detect


def recognize(root: Path) -> str | None:
    """The first format of FORMATS that finds scenes in a folder; None if the layout is unknown."""
    for name in FORMATS:
        try:
            found = import_module(FORMATS[name]).find(root)
        except DataError:
            continue
        if found and (name != "realestate10k" or any(_is_realestate10k(path) for path in found)):
            return name
    return None


def find_scenes(root: Path, name: str) -> tuple[str, list[Path]]:
    """The format and the scenes of a folder.

    Raises:
        ValueError: nothing of that format, or, for `auto`, an unknown layout; lists the known ones.
    """
    known = "; ".join(f"{kind}: {layout}" for kind, layout in LAYOUTS.items())
    if name == "auto":
        found = recognize(root)
        if found is None:
            raise ValueError(f"{root} has an unknown layout. Known ones: {known}")
        name = found
    scenes = import_module(FORMATS[name]).find(root)
    if not scenes:
        other = recognize(root)
        hint = f"it looks like {other}" if other else f"its layout is unknown. Known ones: {known}"
        raise ValueError(f"{root} holds nothing of the format {name} ({LAYOUTS[name]}); {hint}")
    return name, scenes


def _is_realestate10k(path: Path) -> bool:
    try:
        return detect(path) == "realestate10k"
    except (ValueError, OSError):
        return False
