"""YAML and JSON files, which may come from anywhere: bounded in time and memory, strict.

YAML's aliases are refused: no file of this project needs them, and a few hundred bytes of them
stand for gigabytes.
"""

import json
from typing import Any, Iterable

import yaml
from yaml.constructor import ConstructorError

from segmentation_node.errors import ContentError, shown

MAX_BYTES = 1 << 22
MAX_DEPTH = 32
MAX_NODES = 100000
"""Scalars, lists and mappings of a file together."""
MAX_DIGITS = 64
"""Characters of a number: text is turned into numbers in quadratic time."""
NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_yaml(path: str) -> Any:
    """The values of a YAML file. Raises ContentError, one line that names the file."""
    return parse_yaml(_read(path), path)


def parse_yaml(content: Any, name: str) -> Any:
    """The values of YAML, bytes or text, that errors call ``name``. Raises ContentError."""
    try:
        _check_bounds(yaml.parse(content, Loader=_Loader))
        return yaml.load(content, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ContentError(name, "not valid YAML: %s" % _reason(error)) from error


def read_json(path: str) -> Any:
    """The values of a JSON file. Raises ContentError, one line that names the file."""
    try:
        values = json.loads(_read(path).decode("utf-8-sig"), parse_int=_int, parse_float=_float)
        json.dumps(values, ensure_ascii=False).encode("utf-8")  # half a character cannot be shown
    except (ValueError, RecursionError) as error:
        raise ContentError(path, "not valid JSON: %s" % error) from error
    return values


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, whose constructors of numbers and dates raise what they come upon.

    It takes no key twice, of which PyYAML keeps the last.
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in seen:
                raise _refused(key, "the key %s is there twice" % shown(key.value))
            seen.add((key.tag, str(key.value)))
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_object(node, deep)
        kind = node.tag.rpartition(":")[2]
        if node.tag in NUMBERS and len(node.value) > MAX_DIGITS:
            found = "%d characters" % len(node.value)
            raise _refused(node, "%s as %s, expected at most %d" % (found, kind, MAX_DIGITS))
        try:
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _refused(node, "%s is no %s" % (shown(node.value), kind)) from error


def _refused(node: Any, problem: str) -> ConstructorError:
    return ConstructorError(None, None, problem, node.start_mark)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise ContentError(path, "cannot be read (%s)" % error.strerror) from error
    if len(content) > MAX_BYTES:
        raise ContentError(path, "more than %d bytes; expected a small file" % MAX_BYTES)
    return content


def _check_bounds(events: Iterable[Any]) -> None:
    depth = nodes = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            problem = "alias *%s; expected values without aliases" % event.anchor
        elif depth > MAX_DEPTH:
            problem = "nested deeper than %d levels" % MAX_DEPTH
        elif nodes > MAX_NODES:
            problem = "more than %d values" % MAX_NODES
        else:
            nodes += isinstance(event, yaml.NodeEvent)
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            continue
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)


def _reason(error: yaml.YAMLError) -> str:
    problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
    text = " ".join(str(problem or error).split())[:200]
    return "%s (line %d)" % (text, mark.line + 1) if mark else text


def _int(text: str) -> int:
    return int(_few_digits(text))


def _float(text: str) -> float:
    return float(_few_digits(text))


def _few_digits(text: str) -> str:
    if len(text) > MAX_DIGITS:
        raise ValueError("a number of %d characters, expected %d" % (len(text), MAX_DIGITS))
    return text
