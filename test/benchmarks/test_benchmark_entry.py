"""``python -m benchmarks``: which benchmarks run, how they end, and what is said about it."""

import contextlib
import importlib
import os
import runpy
import sys

import pytest

from benchmarks import BENCHMARKS, Benchmark
from benchmarks import __main__ as entry
from benchmarks.record import RESULTS, TRIALS
from segmentation_node.errors import DatasetError

WRITE = """
import sys
from pathlib import Path
from benchmarks.record import Record
row = {"network": "enet", "image": "1x1", "gmac": 1.0, "published_ms": None,
       "least_ms": {"fp32": 1, "fp16": 1}, "memory_bound_share": {"fp16": 1}}
Record("roofline", {}).save([row], Path(sys.argv[1]) / sys.argv[2])
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the entry on made-up benchmarks, which are lines of Python, into a folder."""
    monkeypatch.setattr(entry, "RESULTS", tmp_path)

    def run(codes, *arguments, needs=()):
        known = {name: Benchmark("", needs="a GPU" if name in needs else "") for name in codes}
        monkeypatch.setattr(entry, "BENCHMARKS", known)
        monkeypatch.setattr(
            entry,
            "command_of",
            lambda name, is_quick, more: [
                sys.executable, "-c", codes[name], str(tmp_path), f"{name}.json", *more
            ],
        )  # fmt: skip
        code = entry.main(list(arguments))
        return code, capsys.readouterr().out

    return run


def last_lines(shown):
    """The closing table by its first column."""
    lines = shown[shown.index("benchmark") :].splitlines()
    return {line.split()[0]: line for line in lines if line}


def test_one_that_fails_does_not_stop_the_others(run, tmp_path):
    code, shown = run({"one": "raise SystemExit(3)", "two": WRITE})
    assert code == 1 and (tmp_path / "two.json").exists()
    assert "[1/2] " in shown and "[2/2] " in shown
    rows = last_lines(shown)
    assert "failed (3)" in rows["one"] and "nothing" in rows["one"]
    assert "ok" in rows["two"] and "two.json" in rows["two"]
    assert "python -m benchmarks.documents" in shown


def test_all_well_is_zero(run):
    code, shown = run({"one": WRITE})
    assert code == 0 and "one.json: " not in shown


def test_a_file_that_cannot_be_shown_fails(run):
    code, shown = run({"one": WRITE.replace('"gmac"', '"macs"')})
    assert code == 1
    assert "one.json: it lacks 'gmac', which is shown" in shown


def test_what_needs_more_runs_only_by_name(run, tmp_path):
    run({"one": WRITE, "two": WRITE}, needs=["two"])
    assert not (tmp_path / "two.json").exists()
    code, shown = run({"one": WRITE, "two": WRITE}, "two", needs=["two"])
    assert code == 0 and (tmp_path / "two.json").exists() and "[1/1]" in shown


def test_options_behind_two_dashes_are_passed_on(run):
    code, shown = run({"one": "import sys; sys.exit(sys.argv[3:] != ['--root', 'X'])"}, "--",
                      "--root", "X")  # fmt: skip
    assert code == 0 and shown.splitlines()[0].endswith("--root X")


def test_an_interrupted_run_says_what_was_not_run(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "run", interrupted)
    code, shown = run({"one": "", "two": ""})
    assert code == 130
    assert "not run" in last_lines(shown)["one"] and "not run" in last_lines(shown)["two"]


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["nothing"], "there is no benchmark 'nothing'; choose from roofline, network_latency"),
        (["--nothing"], "unrecognized arguments: --nothing"),
    ],
)
def test_a_wrong_argument_is_refused(arguments, reason, capsys):
    with pytest.raises(SystemExit) as caught:
        entry.main(arguments)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_quick_run_leaves_the_results_alone():
    for name in BENCHMARKS:
        command = entry.command_of(name, True, [])
        assert str(TRIALS / f"{name}.json") in command
        assert not any(str(RESULTS) in word for word in command)
        assert "--output" not in entry.command_of(name, False, [])


def test_the_list_names_all(capsys):
    assert entry.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(BENCHMARKS)
    assert any(line.endswith("an NVIDIA GPU") for line in lines)


NO_MODEL = ("--model", "/nothing")
NO_DATA = ("--root", "/nothing")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "name, wrong",
    [
        *((name, NO_MODEL) for name in ("boxes", "cameras", "deadline", "int8")),
        *((name, ("--models", "/nothing")) for name in ("end_to_end", "host_cost")),
        *((name, NO_DATA) for name in ("evaluation_speed", "training_loop", "int8")),
    ],
)
def test_what_is_not_there_is_one_line(name, wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, *wrong])
    # Other tests of this process are on a graph already.
    monkeypatch.setattr("benchmarks.nodes.joined_graph", contextlib.nullcontext)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 1 and line.startswith("error: ") and "/nothing" in line


class Reached(Exception):
    """The options were understood."""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", BENCHMARKS)
def test_options_of_a_quick_run_are_those_of_the_benchmark(name, monkeypatch):
    def reached(*_):
        raise Reached

    for variable in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTRTPS_DEFAULT_PROFILES_FILE",
                     "FASTDDS_DEFAULT_PROFILES_FILE"):  # fmt: skip
        monkeypatch.setenv(variable, os.environ.get(variable, ""))
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(module, "Record", reached)
    monkeypatch.setattr(sys, "argv", entry.command_of(name, True, [])[2:])
    # One that misses its data set has understood its options too.
    with pytest.raises((Reached, DatasetError)):
        module.main()
