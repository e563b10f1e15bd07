"""Nothing is kept or sent beside what a user asked for: ONNX Runtime's telemetry stays off."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BACKEND = """
from support.core import tiny
from segmentation_node.backends import BackendOptions, open_backend
with open_backend("onnxruntime", tiny.card(), BackendOptions()) as backend:
    print(backend.input_shape)
"""
EXPORT = """
import sys
from pathlib import Path
from support.core import tiny
from segmentation_node.importing import quantise
from training import export
quantise.prepare(Path(tiny.card().artifact_path("onnx")), Path(sys.argv[1]) / "prepared.onnx")
"""
PLAIN = "import onnxruntime"


def files_after(program, tmp_path, disabled):
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "test")])
    if not disabled:
        del environment["ORT_DISABLE_TELEMETRY"]  # conftest's
    command = [sys.executable, "-c", program, str(tmp_path)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True)
    return [str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("program", [BACKEND, EXPORT], ids=["backend", "export"])
def test_no_file_appears_in_the_home_folder(program, tmp_path):
    assert files_after(program, tmp_path, disabled=False) == []


def test_onnx_runtime_alone_would_leave_some(tmp_path):
    if not files_after(PLAIN, tmp_path, disabled=False):
        pytest.skip("NOT RUN: this ONNX Runtime has no telemetry, so the test above shows nothing")


@pytest.mark.parametrize("folder", ["segmentation_node", "training", "benchmarks"])
def test_it_is_imported_in_one_place(folder):
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [item.name for item in getattr(node, "names", ())]
            names.append(getattr(node, "module", "") or "")
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert not any(name.split(".")[0] == "onnxruntime" for name in names), path
