"""Dataclasses out of the plain values of a file: keys and types are checked."""

import math
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin

from segmentation_node.errors import shown

LIMIT = 2**31
"""Whole numbers are below, so that torch takes any of them."""


def build(section: type, values: Any, where: str = "") -> Any:
    """The dataclass that a mapping describes, each value of the type that its field says.

    Raises ValueError, one line, on an unknown or missing key or a value of another type.
    """
    of_what = f"{where.rstrip('.')}: " if where else ""
    _require(
        isinstance(values, dict),
        f"{of_what}expected keys and values, found {type(values).__name__}",
    )
    known = {item.name: item for item in fields(section)}
    unknown = sorted(where + str(key) for key in set(values) - set(known))
    _require(not unknown, f"unknown keys {shown(unknown)}; known: {sorted(known)}")
    missing = [
        where + name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING and name not in values
    ]
    _require(not missing, f"missing keys {missing}")
    return section(
        **{key: _typed(value, known[key].type, where + key) for key, value in values.items()}
    )


def _typed(value: Any, expected: Any, key: str) -> Any:
    """The value as the field of this type holds it. Raises ValueError."""
    arguments = get_args(expected)
    if get_origin(expected) is UnionType:
        return _one_of(value, arguments, key)
    if is_dataclass(expected):
        return build(expected, value, f"{key}.")  # type: ignore[arg-type]
    if expected is float:
        return _finite(value, key)
    if get_origin(expected) is dict:
        _require_type(value, dict, key)
        return {
            _typed(name, arguments[0], key): _typed(inner, arguments[1], f"{key}.{name}")
            for name, inner in value.items()
        }
    if get_origin(expected) is tuple:
        return _tuple(value, arguments, key)
    if expected is not Any:
        _require_type(value, expected, key)
    if expected is int:
        _require(abs(value) < LIMIT, f"{key} is {shown(value)}; expected less than {LIMIT}")
    return value


def _one_of(value: Any, kinds: tuple[Any, ...], key: str) -> Any:
    """Of a union: None or text as they are, anything else as its other type."""
    if any(kind in (str, type(None)) and isinstance(value, kind) for kind in kinds):
        return value
    other = next(kind for kind in kinds if kind not in (str, type(None)))
    if str in kinds and get_origin(other) is tuple:
        is_list = isinstance(value, (list, tuple))
        _require(is_list, f"{key} is {shown(value)}; expected text or a list")
    return _typed(value, other, key)


def _tuple(value: Any, kinds: tuple[Any, ...], key: str) -> tuple[Any, ...]:
    is_list = isinstance(value, (list, tuple))
    _require(is_list, f"{key} is {shown(value)}; expected a list")
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    _require(len(value) == len(kinds), f"{key} is {shown(value)}; expected {len(kinds)} values")
    return tuple(_typed(item, kind, key) for item, kind in zip(value, kinds, strict=True))


def _finite(value: Any, key: str) -> Any:
    # YAML reads 1e-8 and 1.0e6 as text, 1.0e-8 and 1.0e+6 as numbers.
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    _require(
        is_number and math.isfinite(value),
        f"{key} is {shown(value)}, not a number (YAML wants 1.0e-8 and 1.0e+6)",
    )
    return value


def _require_type(value: Any, expected: type, key: str) -> None:
    is_right = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    _require(
        is_right,
        f"{key} is {shown(value)} ({type(value).__name__}); expected {expected.__name__}",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
