"""The command that builds engines: what is wrong on its line, --dry-run, and as a process."""

import os
import signal
import subprocess
import sys

import pytest
from support.core import fake_tensorrt
from support.core.fake_gpu import DIALECTS, environment
from support.core.real_data import PROJECT
from support.core.tensorrt_engines import arguments, job, names

from segmentation_node import engine

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")


@pytest.fixture
def folder(tmp_path):
    """The engine folder; not there yet."""
    return tmp_path / "engines"


def test_an_unknown_model(gpu, folder, capsys):
    assert engine.main(["--model", "no_such_model", "--engine-dir", str(folder)]) == 1
    assert "error: model 'no_such_model' is neither" in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--device", "cpu"], "'cpu' is no GPU"),
        (["--precision", "int8"], "invalid choice: 'int8'"),
        (["--workspace-mib", "0"], "0 is not positive"),
    ],
)
def test_a_wrong_argument_is_exit_code_2(folder, capsys, wrong, said):
    with pytest.raises(SystemExit) as caught:
        engine.main(arguments(folder, *wrong))
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_a_dry_run_says_what_would_be_built_and_builds_nothing(dialect, folder, capsys):
    assert engine.main(arguments(folder, "--dry-run", "--precision", "fp16")) == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {key: value.strip() for key, value in shown.items()}
    version = fake_tensorrt.VERSIONS[dialect]
    path = folder / ("tiny_8x6_fp16_trt%s_sm53.engine" % version)
    assert shown["engine"] == str(path)
    assert shown["TensorRT"] == version
    assert shown["GPU"] == "Stand-in GPU, compute capability 5.3, CUDA 10.2"
    kinds = {"8.2": "onnx_float", "11": "onnx_fp16"}
    assert "(%s)" % kinds.get(dialect, "onnx") in shown["graph"]
    assert shown["now"] == "not built yet"
    assert not folder.exists()
    engine.make_engine(job(folder, "fp16"))
    assert shown["engine"] in [str(folder / name) for name in names(folder)]
    assert engine.main(arguments(folder, "--dry-run", "--precision", "fp16")) == 0
    assert "built and good" in capsys.readouterr().out


def test_a_dry_run_without_tensorrt_and_gpu_says_what_it_cannot_know(
    gpu, folder, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    gpu.set(FAKE_CUDA_GPUS=0)
    assert engine.main(arguments(folder, "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert "tiny_8x6_fp32_trt?_sm?.engine" in shown
    assert shown.count("not known") == 2
    assert "TensorRT is missing" in shown and "no CUDA-capable device" in shown
    for kind, when in engine.GRAPHS:
        assert when in shown and "(%s)" % kind in shown


def test_a_dry_run_tells_what_would_be_refused(gpu, tmp_path, capsys):
    gpu.install("8.2")
    gpu.set(FAKE_CUDA_FREE_MIB=1)
    (tmp_path / "file").write_text("")
    assert engine.main(arguments(tmp_path / "file" / "engines", "--dry-run")) == 1
    shown = capsys.readouterr().out
    assert shown.count("would be refused") == 2
    assert "GPU memory" in shown and "engines cannot be written there" in shown


def start(gpu, dialect, *arguments):
    """The command as a process that finds the stand-ins as it would the real libraries."""
    return subprocess.Popen(
        [sys.executable, "-m", "segmentation_node.engine"] + list(arguments),
        cwd=PROJECT,
        env=dict(os.environ, **environment(gpu.cudart_path, dialect)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_command(gpu, folder, dialect):
    process = start(gpu, dialect, *arguments(folder))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.startswith("wrote ")
    gpu.set(FAKE_TENSORRT_BUILD_FAILS="out of luck")
    process = start(gpu, dialect, *arguments(folder, "--force"))
    _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines()[-1] == "error: TensorRT gave no engine: out of luck"


def test_ctrl_c_ends_a_build_at_once_and_leaves_nothing(gpu, folder, tmp_path):
    gpu.set(FAKE_TENSORRT_BUILD_S=600, PYTHONPATH=os.pathsep.join([str(tmp_path), PROJECT]))
    # Says when it is so far, since progress comes only every ten seconds.
    (tmp_path / "sitecustomize.py").write_text(
        "from segmentation_node.backends.tensorrt import build_progress\n"
        "build_progress.LINE_S = 0.05\n"
    )
    process = start(gpu, "8.2", *arguments(folder))
    while "building" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == -signal.SIGINT
    assert names(folder) == []
