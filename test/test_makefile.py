"""``make``: neither it nor the shell looks for commands in what a user gives."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What a recipe would run, without running it: one line of JSON an argv, appended in one write,
# since jobs side by side would mix theirs on a common output.
STUB = f"""#!{sys.executable} -IS
import json, os, sys

calls = os.open("tools/calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(calls, json.dumps(sys.argv[1:]).encode() + b"\\n")
"""
HOSTILE = [
    "$(shell touch made)",
    "`touch made`",
    "$$(touch made)",
    "$(touch made) $$HOME ${HOME} $@",
    "it's; touch made",
    'a "quoted" folder; touch made',
    "a folder  with spaces/*",
    "--looks-like=an option",
    "back\\slash # no comment",
]


@pytest.fixture
def make(tmp_path):
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("setup", "run", "py36"):
        (tmp_path / "tools" / name).write_text(STUB)
        (tmp_path / "tools" / name).chmod(0o755)

    calls = tmp_path / "tools" / "calls"

    def run(*words, **environment):
        calls.unlink(missing_ok=True)
        subprocess.run(
            ["make", "--silent", *words], cwd=tmp_path, env={**os.environ, **environment},
            capture_output=True, check=True,
        )  # fmt: skip
        assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "tools"]
        return [json.loads(line) for line in calls.read_text().splitlines()]

    return run


@pytest.mark.parametrize("text", HOSTILE)
def test_input_model_and_topic_arrive_as_they_are(make, text):
    expected = [f"--input={text}", f"--model={text}", f"--image-topic={text}"]
    words = {"INPUT": text, "MODEL": text, "TOPIC": text}
    assert make("demo", *(f"{name}={value}" for name, value in words.items()))[-1][-3:] == expected
    assert make("demo", **words)[-1][-3:] == expected


@pytest.mark.parametrize("text", HOSTILE)
def test_other_words_run_nothing(make, text):
    assert make("bench", f"ARGS={text}")[-1] == ["python", "-m", "benchmarks", *text.split()]
    assert make("test", f"WORKERS={text}")[-1][-2:] == ["-n", text]
    make("setup", f"PYTHON={text}")


def test_without_words_the_defaults_hold(make):
    defaults = ["--input=", "--model=", "--image-topic="]
    assert make("demo", INPUT="", MODEL="", TOPIC="")[-1][-3:] == defaults
    assert make("test")[-1] == ["python", "-m", "pytest", "-n", "3"]
    assert make("bench", "ARGS=host_cost --quick")[-1][3:] == ["host_cost", "--quick"]
