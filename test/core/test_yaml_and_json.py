"""YAML and JSON from anywhere: values, or one line in little time and memory."""

import copy
import os
import random
import resource

import pytest
import yaml
from support.core import tiny

from segmentation_node.errors import CardError, ContentError, shown
from segmentation_node.model_card import read_card
from segmentation_node.yaml_and_json import MAX_BYTES, MAX_NODES, read_json, read_yaml

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    "a%d: &a%d [%s]\n" % (level, level, ", ".join(["*a%d" % (level - 1)] * 9))
    for level in range(1, 10)
)
REFUSED = {
    "date": ("a: 2020-13-45", "'2020-13-45' is no timestamp (line 1)"),
    "int": ('a: !!int ""', "'' is no int"),
    "timestamp": ("a: !!timestamp x", "'x' is no timestamp"),
    "bool": ("a: !!bool x", "'x' is no bool"),
    "float": ("a: !!float x", "'x' is no float"),
    "digits": ("a: " + "9" * 5000, "5000 characters as int"),
    "mean": ("a: [" + "1" * 400 + ", 0, 0]", "400 characters as int"),
    "sexagesimal": ("a: 1" + ":59" * 5000, "characters as int"),
    "real": ("a: 1." + "0" * 100, "102 characters as float"),
    "twice": ("a: 1\nb: {c: 1,\n  'c': 2}", "the key 'c' is there twice (line 3)"),
    "nested": ("[" * 5000, "deeper than 32 levels"),
    "nested blocks": ("- " * 5000, "deeper than 32 levels"),
    "aliases": (BOMB, "alias *a0; expected values without aliases"),
    "endless": ("&a [*a]", "alias *a"),
    "unhashable": ("? [1]\n: 2", "unhashable"),
    "two documents": ("a: 1\n---\nb: 2\n", "another document (line 2)"),
    "no YAML": ("a: [1,\nb: {", "not valid YAML: "),
    "no UTF-8": (b"a: \xff\xfe", "not valid YAML"),
    "control": ("a: \x07", "not valid YAML"),
    "object": ("!!python/object/apply:os.getcwd []", "could not determine a constructor"),
    "long tag": ("!" + "t" * 5000 + " x", "could not determine a constructor"),
    "many": ("- 1\n" * (MAX_NODES + 1), "more than %d values" % MAX_NODES),
    "large": ("#" * (MAX_BYTES + 1), "more than %d bytes" % MAX_BYTES),
}


def refusal(read, folder, content):
    """The one line with which a file of this content is refused."""
    path = folder / "found"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ContentError) as caught:
        read(str(path))
    message = str(caught.value)
    assert message.startswith(str(path) + ": ") and "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_yaml_that_is_none_is_one_line(name, tmp_path):
    content, expected = REFUSED[name]
    assert expected in refusal(read_yaml, tmp_path, content)


@pytest.mark.parametrize(
    "content, expected",
    [
        ("{", "not valid JSON"),
        (b"\xff", "not valid JSON"),
        ("[" * 100000, "not valid JSON"),
        ("9" * 5000, "5000 characters"),
        ("1." + "0" * 5000, "5002 characters"),
        (" " * (MAX_BYTES + 1), "bytes"),
        ('{"a": ["\\ud800"]}', "surrogates not allowed"),
    ],
    ids=["cut off", "no UTF-8", "nested", "digits", "real", "large", "half a character"],
)
def test_json_that_is_none_is_one_line(content, expected, tmp_path):
    assert expected in refusal(read_json, tmp_path, content)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_good_values_are_read(read, encoding, tmp_path):
    text = '{"a": [1, 2.5, "é", null, true], "b": {"c": "x"}}'
    (tmp_path / "good").write_text(text, encoding=encoding)
    expected = {"a": [1, 2.5, "é", None, True], "b": {"c": "x"}}
    assert read(str(tmp_path / "good")) == expected


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_a_file_that_cannot_be_read_says_why(read, tmp_path):
    with pytest.raises(ContentError, match="nowhere: cannot be read .No such file"):
        read(str(tmp_path / "nowhere"))


def test_a_refused_value_is_shown_in_short():
    bomb = ["x"] * 9
    for _ in range(12):
        bomb = [bomb] * 9
    assert len(shown(bomb)) < 1000
    assert len(shown({"k" * 1000: "v" * 1000})) < 250
    assert shown([1.0, "two"]) == "[1.0, 'two']"


ODD = [None, True, -1, 0, 10**60, 1.5, float("nan"), float("inf"), "", "x" * 5000, "é\n", [], {}]
ODD += [[[]], [1, 2, 3], ["a"] * 50, {"a": {"b": 1}}, [{"kind": 1}], "2020-01-01"]


def damaged(text, chance):
    """The text with some of its bytes changed, left out or doubled."""
    content = bytearray(text.encode())
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content))
        piece = bytes(content[at : at + chance.randint(1, 30)])
        content[at : at + len(piece)] = chance.choice(
            [b"", piece * 2, bytes(chance.randrange(256) for _ in piece), b"[", b"&a *a", b"!!int "]
        )
    return bytes(content)


def with_odd_value(values, chance):
    """The values with one of them, at any depth, replaced by an odd one."""
    values = copy.deepcopy(values)
    inner = values
    while True:
        key = chance.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
        if not (isinstance(inner[key], (dict, list)) and inner[key] and chance.random() < 0.7):
            break
        inner = inner[key]
    inner[key] = chance.choice(ODD)
    return yaml.dump(values, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)).encode()


def test_a_damaged_card_is_read_or_refused_in_one_line(tmp_path):
    with open(os.path.join(tiny.FOLDER, "model.yaml"), encoding="utf-8") as card:
        text = card.read()
    values = yaml.safe_load(text)
    chance = random.Random(13)
    refused = 0
    for number in range(300):
        mutant = damaged(text, chance) if number % 2 else with_odd_value(values, chance)
        (tmp_path / "model.yaml").write_bytes(mutant)
        try:
            read_card(str(tmp_path))
        except CardError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 3000, mutant
    assert refused > 150


def test_a_bomb_takes_little_memory(tmp_path):
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal(read_yaml, tmp_path, BOMB)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib < 50000
