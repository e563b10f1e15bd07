"""Dataclasses out of the plain values of a YAML or JSON file: keys and types are checked."""

import math
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Sequence, Tuple, Type, TypeVar, Union

from segmentation_node.errors import shown

Record = TypeVar("Record")
LIMIT = 2**53
"""Whole numbers are below: each is a float of its own, and fits into 64 bits."""


def build(section: Type[Record], values: Any, what: str, unset: Sequence[str] = ()) -> Record:
    """The dataclass that a mapping describes, each value of the type that its field says.

    That is str, int, float, bool, Any, another dataclass, a List, Tuple or Dict of these, or a
    Union of one of them with None, with str, or with both. ``what`` the mapping is says an error
    where it is none; fields in ``unset`` are no keys and keep their defaults. Raises ValueError,
    one line, on an unknown or missing key, a value of another type, and a float that is not finite.
    """
    return _section(section, values, "", what, unset)


def _section(section: Any, values: Any, key: str, what: str, unset: Sequence[str]) -> Any:
    known = {item.name: item for item in fields(section) if item.name not in unset}
    _require(
        isinstance(values, dict),
        "%s is %s; expected a mapping with the keys %s", what, _found(values), sorted(known),
    )  # fmt: skip
    where = key + "." if key else ""
    unknown = sorted(where + str(name) for name in set(values) - set(known))
    _require(not unknown, "unknown keys %s; known keys are %s", shown(unknown), sorted(known))
    missing = [
        where + name
        for name, item in known.items()
        if item.default is MISSING and item.default_factory is MISSING and name not in values
    ]
    _require(not missing, "missing keys %s", missing)
    return section(
        **{name: _typed(value, known[name].type, where + name) for name, value in values.items()}
    )


def _typed(value: Any, expected: Any, key: str) -> Any:
    """The value as a field of this type holds it. Raises ValueError."""
    if expected is Any:
        return value
    if is_dataclass(expected):
        return _section(expected, value, key, key, ())
    kind, arguments = _parts(expected)
    if kind is Union:
        return _one_of(value, arguments, key)
    if kind is float:
        return _finite(value, key)
    found = list if kind is tuple and isinstance(value, list) else kind
    is_right = isinstance(value, found) and (kind is bool or not isinstance(value, bool))
    _require(is_right, "%s is %s; expected %s", key, _found(value), _name(kind))
    if kind is int:
        _require(abs(value) < LIMIT, "%s is %s; expected less than %d", key, shown(value), LIMIT)
    if kind is dict and arguments:
        name_type, inner_type = arguments
        return {
            _typed(name, name_type, key): _typed(inner, inner_type, "%s.%s" % (key, name))
            for name, inner in value.items()
        }
    return _items(value, kind, arguments, key) if kind in (list, tuple) and arguments else value


def _parts(expected: Any) -> Tuple[Any, Tuple[Any, ...]]:
    """The plain type, or Union, and what it is of: as Python 3.6 and as later ones keep them."""
    arguments = getattr(expected, "__args__", None) or ()
    origin = getattr(expected, "__origin__", None)
    if origin is Union or (origin is None and arguments):  # ``int | None``
        return Union, arguments
    for kind in (list, dict, tuple):
        if issubclass(origin or expected, kind):
            return kind, arguments
    return expected, arguments


def _one_of(value: Any, kinds: Tuple[Any, ...], key: str) -> Any:
    """Of a union: None or text as they are, anything else as its other type."""
    plain = [kind for kind in kinds if kind in (str, type(None))]
    if isinstance(value, tuple(plain)):
        return value
    other = next((kind for kind in kinds if kind not in plain), str)
    if str in plain and _parts(other)[0] is tuple:
        is_list = isinstance(value, (list, tuple))
        _require(is_list, "%s is %s; expected text or a list", key, shown(value))
    return _typed(value, other, key)


def _items(value: Any, kind: Any, arguments: Tuple[Any, ...], key: str) -> Any:
    if kind is tuple and arguments[-1] is not Ellipsis:
        is_full = len(value) == len(arguments)
        _require(is_full, "%s is %s; expected %d values", key, shown(value), len(arguments))
        return tuple(_typed(item, one, key) for item, one in zip(value, arguments))
    of_sections = is_dataclass(arguments[0])
    return kind(
        _typed(item, arguments[0], "%s[%d]" % (key, index) if of_sections else key)
        for index, item in enumerate(value)
    )


def _finite(value: Any, key: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # YAML reads 1e-8 and 1.0e6 as text, 1.0e-8 and 1.0e+6 as numbers.
    hint = " (YAML wants 1.0e-8 and 1.0e+6)" if isinstance(value, str) else ""
    _require(is_number, "%s is %s; expected float%s", key, _found(value), hint)
    _require(math.isfinite(value), "%s is %s; expected a finite number", key, value)
    return float(value)


def _found(value: Any) -> str:
    return "%s (%s)" % (shown(value), type(value).__name__)


def _name(kind: Any) -> str:
    return "a list" if kind in (list, tuple) else str(kind.__name__)


def _require(condition: bool, message: str, *values: Any) -> None:
    if not condition:
        raise ValueError(message % values)
