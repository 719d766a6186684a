"""Shared parts of the readers: rows of numbers with their line numbers, rigid poses from rows, the error class.

Axis legend: the readers document the frame of their matrices.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from fw_core.files import decode_text
from fw_geometry.checks import ORTHONORMAL_TOLERANCE
from fw_geometry.rigid import compose_poses, nearest_rotations, orthonormality_error


class CameraFileError(ValueError):
    """A camera file that does not hold what its format asks for; the message names file, place, wanted and remedy."""

    def __init__(self, path: Path, place: str, problem: str, remedy: str) -> None:
        super().__init__(path, place, problem, remedy)  # all of them, so that the error survives a process border
        self.path = path
        """The file."""
        self.place = place
        """Line or entry in the file."""
        self.problem = problem
        """Found and expected value."""
        self.remedy = remedy
        """Settings of the run."""

    def __str__(self) -> str:
        return f"{self.path}, {self.place}: {self.problem}; {self.remedy}"


def read_text(path: Path) -> str:
    """A text file without its byte order mark. CameraFileError if it is not UTF-8 or UTF-16 text."""
    try:
        return decode_text(path.read_bytes())
    except UnicodeDecodeError as error:
        raise CameraFileError(
            path, f"byte {error.start}", "no UTF-8 or UTF-16 text", "is this a binary file?"
        ) from error


def read_lines(path: Path) -> list[str]:
    """Lines of a text file. CameraFileError if it is empty or not UTF-8 text."""
    text = read_text(path)
    if not text.strip():
        raise CameraFileError(path, "line 1", "the file is empty", "expected camera poses, write the file again")
    return text.splitlines()


def parse_numbers(path: Path, line: int, words: list[str], columns: int, layout: str) -> np.ndarray:
    """The numbers of one row as float64. CameraFileError for a wrong count, a word that is no number, NaN or inf."""
    place = f"line {line}"
    if len(words) != columns:
        raise CameraFileError(
            path, place, f"{len(words)} columns, expected {columns} ({layout})", "check the format and the separators"
        )
    values = np.empty(columns)
    for column, word in enumerate(words):
        try:
            values[column] = float(word)
        except ValueError as error:
            raise CameraFileError(
                path, place, f"column {column + 1} is {word!r}, expected a number ({layout})", "fix or drop the line"
            ) from error
        if not np.isfinite(values[column]):
            raise CameraFileError(
                path,
                place,
                f"column {column + 1} is {word!r}, expected a finite number ({layout})",
                "drop frames without a pose",
            )
    return values


def number_rows(path: Path, columns: int, layout: str) -> list[tuple[int, np.ndarray]]:
    """(line number, numbers) of every line that is not blank or a # comment."""
    rows = [
        (line, parse_numbers(path, line, text.split(), columns, layout))
        for line, text in enumerate(read_lines(path), start=1)
        if text.strip() and not text.lstrip().startswith("#")
    ]
    if not rows:
        raise CameraFileError(path, "line 1", f"no data rows, only comments; expected {layout}", "write the file again")
    return rows


def rigid_pose(path: Path, place: str, matrix: np.ndarray) -> np.ndarray:
    """A 4x4 pose of a (3, 4) or (4, 4) matrix read at `place`, its R snapped to the nearest rotation.

    CameraFileError if R is off by more than 1e-3 (rounded text is off by less) or the last row is not 0 0 0 1.
    """
    if matrix.shape == (4, 4) and np.abs(matrix[3] - (0, 0, 0, 1)).max() > ORTHONORMAL_TOLERANCE:
        raise CameraFileError(
            path, place, f"last row is {matrix[3].tolist()}, expected 0 0 0 1", "is the matrix transposed?"
        )
    rotation = matrix[:3, :3]
    error = float(orthonormality_error(rotation))
    if error > ORTHONORMAL_TOLERANCE:
        found = "mirrors space (det < 0)" if np.isinf(error) else f"is off by {error:.2g} (max |R^T R - I|)"
        raise CameraFileError(
            path,
            place,
            f"the rotation {found}, expected an orthonormal one to {ORTHONORMAL_TOLERANCE}",
            "remove scale and shear from the 3x3 part, or flip the mirrored axis",
        )
    return compose_poses(nearest_rotations(rotation), matrix[:3, 3])


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object of a file. CameraFileError with the line for a syntax error or another top-level type."""
    try:
        data = json.loads("\n".join(read_lines(path)))
    except json.JSONDecodeError as error:
        raise CameraFileError(path, f"line {error.lineno}", f"not JSON ({error.msg})", "fix the syntax") from error
    if not isinstance(data, dict):
        raise CameraFileError(path, "line 1", f"a JSON {type(data).__name__}, expected an object", "wrap it in braces")
    return data


def json_number(path: Path, data: dict[str, Any], key: str, place: str = "top level") -> float:
    """A finite number of a JSON object. CameraFileError if it is missing or something else."""
    value = data.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise CameraFileError(path, place, f"{key!r} is {value!r}, expected a finite number", f"add {key!r}")
    return float(value)


def json_list(path: Path, data: dict[str, Any], key: str) -> list[Any]:
    """A list with at least one entry of a JSON object. CameraFileError if it is missing or something else."""
    value = data.get(key)
    if not isinstance(value, list) or not value:
        found = "missing or empty" if not value else f"a {type(value).__name__}"
        raise CameraFileError(path, "top level", f"{key!r} is {found}, expected a list", "is this the right format?")
    return value


def json_pose(path: Path, value: Any, place: str) -> np.ndarray:
    """A rigid 4x4 pose of a JSON list of 3 or 4 rows of 4 numbers."""
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CameraFileError(path, place, "not a matrix of numbers, expected 4 rows of 4", "write it again") from error
    if matrix.shape not in ((4, 4), (3, 4)):
        raise CameraFileError(path, place, f"shape {matrix.shape}, expected 4 rows of 4 numbers", "write it again")
    if not np.isfinite(matrix).all():
        raise CameraFileError(path, place, "a number is NaN or infinite, expected finite ones", "drop this frame")
    return rigid_pose(path, place, matrix)


def number_text(values: np.ndarray) -> str:
    """Numbers joined by blanks, each as the shortest text that reads back to the same float64."""
    return " ".join(repr(value) for value in values.tolist())
