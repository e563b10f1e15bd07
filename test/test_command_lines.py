"""Every command says what its options do, and documents name options that there are."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("[!.]*/README.md"))]
TRAINING = ("train", "export", "add_variants", "study", "summary", "boxes", "box_score", "curves")
BENCHMARKS = (
    "boxes", "cameras", "deadline", "documents", "end_to_end", "evaluation_speed", "gpu",
    "host_cost", "int8", "network_latency", "paper_tables", "roofline", "training_loop",
    "transport",
)  # fmt: skip
MODULES = [
    "segmentation_node.evaluation.__main__",
    "segmentation_node.importing.__main__",
    "segmentation_node.engine",
    *(f"training.{name}" for name in TRAINING),
    "benchmarks.__main__",
    *(f"benchmarks.{name}" for name in BENCHMARKS),
    *(f"tools.gpu.{name}" for name in ("pack", "run", "take")),
]

OF_OTHERS = {"--array", "--clock", "--ipc", "--shm-size", "--params-file", "--system-site-packages"}
"""Of Slurm, ros2 bag play, Docker, ROS and Python's venv."""


class Parsing(Exception):
    """Carries the parser that a command would read its command line with."""


@pytest.fixture(scope="module")
def parsers():
    """Each command's own parser and, of ``evaluation``, those of its commands, by name."""

    def stop(parser, *_):
        raise Parsing(parser)

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        for name in MODULES:
            with pytest.raises(Parsing) as seen:
                importlib.import_module(name).main([])
            (parser,) = seen.value.args
            name = name.removesuffix(".__main__")
            found[name] = parser
            for action in parser._actions:
                if isinstance(action, argparse._SubParsersAction):
                    found.update({f"{name} {key}": sub for key, sub in action.choices.items()})
    return found


def options_of(parser):
    return [action for action in parser._actions if action.help != argparse.SUPPRESS]


def test_no_command_is_left_out(parsers):
    """Of what runs by ``python -m``: that has a parser of options and is not a part of another."""
    sources = [
        path
        for folder in ("segmentation_node", "training", "benchmarks", "tools")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"(Command|Argument)Parser\(|parser_of\($", path.read_text())
        and 'if __name__ == "__main__"' in path.read_text()
    ]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sources}
    parts = {"tools.gpu.train"}  # tools.gpu.run starts it
    node = {"segmentation_node.ros.main"}  # ROS's own arguments, and --help
    assert {name.removesuffix(".__main__") for name in names - parts - node} <= set(parsers)


def test_every_option_says_what_it_does(parsers):
    silent = [
        f"{name} {'/'.join(action.option_strings) or action.dest}"
        for name, parser in parsers.items()
        for action in options_of(parser)
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert silent == []


def test_every_help_states_the_defaults_as_one_gives_them(parsers, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    for name, parser in parsers.items():
        text = parser.format_help()
        for action in options_of(parser):
            takes_a_value = action.option_strings and action.nargs != 0
            if takes_a_value and not action.required and action.default:
                line = re.search(rf"^  {action.option_strings[0]} .*\n?.*", text, re.M)[0]
                assert "default" in line, f"{name} {action.dest}"
        # An option has no Python's brackets and no quotes around its values.
        assert not re.search(r"default: ?[\[(']", text), name


def test_every_command_says_what_it_is_for(parsers):
    assert [name for name, parser in parsers.items() if not parser.description] == []


def test_the_examples_of_a_help_are_command_lines_that_it_takes(parsers):
    for parser in parsers.values():
        for line in (parser.epilog or "").splitlines()[1:]:
            words = shlex.split(line % {"prog": "PROGRAM"})
            if words[0] == "PROGRAM" and "--help" not in words:
                parser.parse_args(own_of(words[1:]))  # exits where it does not


def own_of(words):
    """Without what a benchmark is passed on."""
    return words[: words.index("--")] if "--" in words else words


def commands_in(page):
    """(command, its words) of each line in a page's code that runs one."""
    code = "\n".join(re.findall(r"```\w*\n(.*?)```", page.read_text(), re.DOTALL))
    for line in re.sub(r"\\\n", " ", code).splitlines():
        line = line.split(" #")[0].replace(
            "ros2 run segmentation_node import_model", "python -m segmentation_node.importing"
        )
        line = re.sub(r"ros2 run segmentation_node (\w+)", r"python -m segmentation_node.\1", line)
        line = re.sub(r"^evaluation ", "python -m segmentation_node.evaluation ", line)
        found = re.search(
            r"python3? -m ((?:segmentation_node|training|benchmarks|tools)[\w.]*) ?(.*)", line
        )
        if found:
            yield found[1], found[2].split()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_pages_run_commands_with_options_that_exist(page, parsers):
    for name, words in commands_in(page):
        if words and f"{name} {words[0]}" in parsers:
            name = f"{name} {words[0]}"
        if name in ("segmentation_node.ros.main", "segmentation_node.segmentation_node"):
            continue
        known = parsers[name]._option_string_actions
        for word in own_of(words):
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{name} {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_pages_name_options_that_exist(page, parsers):
    """Also in sentences and tables; those of other programs stand with their program."""
    known = {key for parser in parsers.values() for key in parser._option_string_actions}
    for quoted in re.findall(r"`(--[a-z][\w-]*)", page.read_text()):
        assert quoted in known | OF_OTHERS, quoted
