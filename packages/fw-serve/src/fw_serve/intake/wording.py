"""Errors of pydantic in plain words: the field, the problem, and the accepted values."""

from typing import Any

from pydantic import ValidationError

_BOUNDS = {"greater_than_equal": ("at least", "ge"), "greater_than": ("greater than", "gt"),
           "less_than_equal": ("at most", "le"), "less_than": ("less than", "lt")}  # fmt: skip
_KINDS = {
    "int_type": "a whole number", "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "float_parsing": "a number", "finite_number": "a finite number",
    "bool_type": "true or false", "bool_parsing": "true or false", "string_type": "text", "dict_type": "an object",
    "list_type": "a list", "model_type": "an object", "model_attributes_type": "an object",
}  # fmt: skip
_SIGNS = 40
"""Maximum length of a quoted value."""


def plain_words(error: ValidationError) -> tuple[str, str]:
    """Field and problem of the first error of a validation. The field is empty for the whole input."""
    return words_of(error.errors(include_url=False)[0])


def words_of(detail: dict[str, Any] | Any) -> tuple[str, str]:
    """Field and problem of one error in pydantic's format."""
    place = [str(part) for part in detail["loc"] if part not in ("body", "query", "path", "header")]
    kind, limits, given = detail["type"], detail.get("ctx") or {}, detail.get("input")
    if kind == "extra_forbidden":
        problem = "unknown field; see /openapi.json for the accepted ones"
    elif kind == "missing":
        problem = "this field is required"
    elif kind in _BOUNDS:
        word, name = _BOUNDS[kind]
        problem = f"must be {word} {limits[name]}; got {_quoted(given)}"
        if place == ["seed"]:
            problem += "; for a random seed, send a random number"
    elif kind in _KINDS:
        problem = f"must be {_KINDS[kind]}; got {_quoted(given)}"
    elif kind == "literal_error":
        problem = f"must be {str(limits['expected']).replace(chr(39), '')}; got {_quoted(given)}"
    elif kind == "string_too_short":
        problem = "must not be empty"
    elif kind in ("string_too_long", "too_long"):
        problem = f"is too long; the maximum length is {limits['max_length']}"
    elif kind == "too_short":
        problem = f"is too short; the minimum length is {limits['min_length']}"
    elif kind == "string_pattern_mismatch":
        problem = f"has an invalid format; got {_quoted(given)}"
    else:
        problem = str(detail["msg"]).removeprefix("Value error, ")
    return ".".join(place), problem


def _quoted(value: Any) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= _SIGNS else f"{text[:_SIGNS]}..."
