"""The command that builds engines, on stand-ins: what it makes, shows, refuses and leaves."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import yaml
from support.core import fake_tensorrt, tiny
from support.core.fake_gpu import environment
from support.core.real_data import PROJECT
from support.core.tensorrt_engines import WORKSPACE_MIB, arguments, job, names, open_engine
from support.core.tiny import assert_one_line

from segmentation_node import engine
from segmentation_node.backends import BackendOptions
from segmentation_node.backends.tensorrt import build as builder
from segmentation_node.backends.tensorrt import engine_files
from segmentation_node.errors import BackendError
from segmentation_node.model_card import open_model, sha256_of

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")


@pytest.fixture
def folder(tmp_path):
    """The engine folder; not there yet."""
    return tmp_path / "engines"


@pytest.fixture
def trt10(gpu):
    """What is not another matter in every dialect is tested in one."""
    gpu.install("10")
    return gpu


def graph_of(dialect, precision):
    """The kind of artifact that a dialect takes."""
    if dialect == "8.2":
        return "onnx_float"
    return "onnx_fp16" if (dialect, precision) == ("11", "fp16") else "onnx"


# What comes out


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engine_and_manifest(dialect, folder, precision):
    version = fake_tensorrt.VERSIONS[dialect]
    said = engine.make_engine(job(folder, precision))
    stem = "tiny_8x6_%s_trt%s_sm53" % (precision, version)
    assert said == "wrote %s" % (folder / (stem + ".engine"))
    cache = "timing_trt%s_sm53.cache" % version
    assert names(folder) == [cache, stem + ".engine", stem + ".json"]
    plan = (folder / (stem + ".engine")).read_bytes()
    manifest = json.loads((folder / (stem + ".json")).read_text())
    kind = graph_of(dialect, precision)
    (artifact,) = [item for item in tiny.card().artifacts if item.kind == kind]
    image, maps = ("float32", "int32") if dialect == "8.2" else ("uint8", "uint8")
    assert manifest == {
        "format": 1,
        "model": "tiny",
        "network": "nearest_color",
        "precision": precision,
        "onnx_kind": kind,
        "onnx_sha256": artifact.sha256,
        "engine_sha256": engine_files.sha256(plan),
        "engine_bytes": len(plan),
        "tensorrt": version,
        "compute_capability": "5.3",
        "gpu": "Stand-in GPU",
        "cuda": "10.2",
        "l4t": "",
        "workspace_mib": WORKSPACE_MIB,
        "tensors": [
            {"name": "image", "direction": "input", "shape": [1, 6, 8, 3], "dtype": image},
            {"name": "class_map", "direction": "output", "shape": [1, 6, 8], "dtype": maps},
            {"name": "confidence", "direction": "output", "shape": [1, 6, 8], "dtype": maps},
        ],
    }
    header, onnx = fake_tensorrt.plan_header(plan)
    assert engine_files.sha256(onnx) == artifact.sha256
    flags = ["FP16"] if precision == "fp16" and dialect != "11" else []
    assert header["settings"] == {"flags": flags, "workspace": WORKSPACE_MIB << 20}


def test_a_good_engine_is_not_built_again_unless_forced(dialect, folder, capsys):
    assert engine.main(arguments(folder)) == 0
    shown = capsys.readouterr()
    assert shown.out.startswith("wrote ")
    progress = "Building Engine 2/2" if dialect in ("10", "11") else "timing Conv_0 (Cudnn)"
    assert progress in shown.err
    (path,) = [folder / name for name in names(folder) if name.endswith(".engine")]
    before = os.stat(str(path)).st_ino
    assert engine.main(arguments(folder)) == 0
    assert capsys.readouterr().out == "%s is built and good; --force builds it again\n" % path
    assert os.stat(str(path)).st_ino == before
    assert engine.main(arguments(folder, "--force")) == 0
    assert os.stat(str(path)).st_ino != before


def test_the_timing_cache_is_kept_used_again_and_replaced_where_it_does_not_fit(
    dialect, folder, capsys
):
    engine.make_engine(job(folder))
    (path,) = [folder / name for name in names(folder) if name.endswith(".cache")]
    assert path.read_bytes() == b"cache %s+" % dialect.encode()
    engine.make_engine(job(folder, "fp16"))
    assert path.read_bytes() == b"cache %s++" % dialect.encode()
    other = folder / "my.cache"
    other.write_bytes(b"cache of another machine")
    assert engine.main(arguments(folder, "--force", "--timing-cache", str(other))) == 0
    assert "note: the timing cache does not fit this machine" in capsys.readouterr().out
    assert other.read_bytes() == b"cache %s+" % dialect.encode()


def test_an_engine_counts_although_its_timing_cache_cannot_be_kept(trt10, folder, tmp_path, capsys):
    (tmp_path / "a file").write_text("")
    cache = tmp_path / "a file" / "my.cache"
    assert engine.main(arguments(folder, "--timing-cache", str(cache))) == 0
    out = capsys.readouterr().out
    assert "the timing cache is not kept" in out and "wrote " in out
    assert engine.state_of(job(folder), engine.look(job(folder)).machine) == ""


def test_another_size_of_the_card_has_an_engine_of_its_own(trt10, folder, tmp_path, capsys):
    model = str(shutil.copytree(tiny.FOLDER, str(tmp_path / "model")))
    with open(os.path.join(model, "model.yaml")) as content:
        values = yaml.safe_load(content)
    # The graphs that there are become those of another size than the card's own.
    values["input"].update(height=12, width=16)
    for artifact in values["artifacts"]:
        if artifact["kind"] != "weights":
            artifact.update(height=6, width=8)
    with open(os.path.join(model, "model.yaml"), "w") as content:
        yaml.safe_dump(values, content)
    card, options = open_model(model, "6x8"), BackendOptions(engine_dir=str(folder))
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "tiny_8x6_fp32", "--model %s --precision fp32 --size 6x8" % model)
    command = ["--model", model, "--engine-dir", str(folder)]
    assert engine.main(command) == 1
    assert "no artifact of kind onnx, which this TensorRT needs" in capsys.readouterr().err
    assert engine.main(command + ["--size", "6x8"]) == 0
    with open_engine(card, options) as opened:
        assert opened.input_shape == (1, 6, 8, 3)
    assert engine.main(command + ["--size", "7x8"]) == 1
    assert "no artifact of 7x8; it has 12x16, 6x8" in capsys.readouterr().err
    with pytest.raises(BackendError) as caught:
        open_engine(card, BackendOptions(engine_dir=str(folder), batch=6))
    assert_one_line(caught, "tiny_8x6_batch6_fp32", "there is fp32", "--size 6x8 --batch 6")


def test_slow_half_precision_is_said(trt10, folder, capsys):
    trt10.set(FAKE_TENSORRT_SLOW_FP16=1)
    assert engine.main(arguments(folder, "--precision", "fp16")) == 0
    assert "note: this GPU has no fast half precision" in capsys.readouterr().out


def test_progress_goes_on_while_tensorrt_is_silent(monkeypatch):
    """On a terminal it is one line that is written over."""

    class Terminal(object):
        def __init__(self):
            self.text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    monkeypatch.setattr(builder, "REFRESH_S", 0.001)
    terminal = Terminal()
    with builder.BuildProgress(terminal) as progress:
        progress.report("a long name of a layer")
        while terminal.text.count("a long name of a layer") < 2:
            time.sleep(0.001)
        progress.report("b")
    lines = terminal.text.rstrip("\n").split("\r")
    assert terminal.text.count("\n") == 1
    assert lines[-1].rstrip().endswith("s  b") and len(lines[-1]) >= len(lines[-2])


def test_the_engine_is_for_the_gpu_that_is_asked_for(trt10, folder):
    trt10.set(FAKE_CUDA_GPUS=2, FAKE_CUDA_CAPABILITY="9.0")
    engine.make_engine(job(folder, device="cuda:1"))
    assert "tiny_8x6_fp32_trt10.3.0_sm90.engine" in names(folder)


# What is refused


def assert_refused(capsys, arguments, *fragments):
    assert engine.main(arguments) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    for fragment in fragments:
        assert fragment in line, line


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


def test_an_unknown_model_and_a_missing_tensorrt(gpu, folder, capsys, monkeypatch):
    assert_refused(capsys, ["--model", "no_such_model"], "model 'no_such_model' is neither")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert_refused(capsys, arguments(folder), "TensorRT is missing")
    assert not folder.exists()


def test_a_folder_that_cannot_be_written(trt10, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    said = "engines cannot be written there", "Not a directory", "--engine-dir", "engine_dir"
    assert_refused(capsys, arguments(tmp_path / "file" / "engines"), *said)
    assert names(tmp_path) == ["file"]


@pytest.fixture
def meminfo(tmp_path, monkeypatch):
    """What the system says of its memory."""
    path = tmp_path / "meminfo"
    monkeypatch.setattr(builder, "MEMORY_FILE", str(path))
    return path


def test_too_little_memory_is_found_before_the_build(trt10, folder, meminfo, capsys):
    meminfo.write_text("MemTotal: 4000000 kB\nMemAvailable: 200000 kB\nSwapFree: 100000 kB\n")
    said = "292 MiB of memory and swap are free", "about 400", "add swap"
    assert_refused(capsys, arguments(folder), *said)
    assert names(folder) == []
    meminfo.unlink()
    trt10.set(FAKE_CUDA_FREE_MIB=300)
    said = "300 MiB of GPU memory are free", "about 384", "--workspace-mib"
    assert_refused(capsys, arguments(folder), *said)
    assert engine.main(arguments(folder, "--workspace-mib", "100")) == 0


def test_a_jetsons_memory_is_the_hosts(trt10, folder, meminfo, capsys):
    """Its file cache can be had, which CUDA does not count; its swap cannot be the GPU's."""
    trt10.set(FAKE_CUDA_FREE_MIB=1, FAKE_CUDA_INTEGRATED=1)
    meminfo.write_text("MemAvailable: 300000 kB\nSwapFree: 4000000 kB\n")
    assert_refused(capsys, arguments(folder), "292 MiB of GPU memory are free", "about 384")
    meminfo.write_text("MemAvailable: 500000 kB\nSwapFree: 0 kB\n")
    assert engine.main(arguments(folder)) == 0


def test_a_graph_that_tensorrt_does_not_take(dialect, folder, monkeypatch):
    version = fake_tensorrt.VERSIONS[dialect]
    with_non_zero = os.path.join(tiny.DATA, "non_zero.onnx")
    artifacts = [
        replace(tiny.card().artifacts[0], file="non_zero.onnx", sha256=sha, kind=kind)
        for kind, sha in zip(("onnx", "onnx_float"), 2 * [sha256_of(with_non_zero)])
    ]
    card = replace(tiny.card(), artifacts=artifacts, folder=tiny.DATA)
    with pytest.raises(BackendError) as caught:
        engine.make_engine(job(folder, card=card))
    said = "TensorRT %s does not take operator NonZero" % version, "onnxruntime or torch"
    assert_one_line(caught, *said)
    monkeypatch.setattr(engine, "_graph", lambda *_: b"no graph\nat all")
    with pytest.raises(BackendError) as caught:
        engine.make_engine(job(folder))
    assert_one_line(caught, "MODEL_DESERIALIZE_FAILED")
    assert names(folder) == []


@pytest.mark.parametrize(
    "text, operators",
    [
        ("3: getPluginCreator could not find plugin: NonZero version: 1", ["NonZero"]),
        ("Error Code 4: API Usage Error (Cannot find plugin: Det, version: 1)", ["Det"]),
        ("In node 5 (importWhere): UNSUPPORTED_NODE: Assertion failed: x", ["Where"]),
        ("In node 5 (importFallbackPluginImporter): UNSUPPORTED_NODE: creator", []),
        ("In node -1 (importModel): INVALID_GRAPH: Assertion failed", []),
        ("In node 7 with name: /Det and operator: Det (checkFallback): INVALID_NODE: c", ["Det"]),
    ],
)
def test_a_refused_operator_is_found_in_what_the_versions_say(text, operators):
    """The forms are those of parserErrorStr in the bindings, and of logs that users have shown."""
    assert builder._operators([text]) == operators


@pytest.mark.parametrize("dialect", ["8.2", "11"], indirect=True)
def test_a_card_without_the_graph_that_is_needed(dialect, folder):
    kind = graph_of(dialect, "fp16")
    card = replace(tiny.card(), artifacts=tiny.card().artifacts[:1])
    with pytest.raises(BackendError) as caught:
        engine.make_engine(job(folder, "fp16", card=card))
    variant = kind[len("onnx_") :]
    command = "python3 -m training.add_variants %s --variant %s" % (tiny.FOLDER, variant)
    assert_one_line(caught, "no artifact of kind " + kind, "it has ['onnx']", command)


def test_a_build_that_fails_says_why(dialect, gpu, folder, capsys):
    gpu.set(FAKE_TENSORRT_BUILD_FAILS="10: Could not find any implementation for node Conv_3")
    assert_refused(capsys, arguments(folder), "gave no engine: 10: Could not find any")
    gpu.set(FAKE_TENSORRT_BUILD_FAILS="2: [utils.cpp::checkMemLimit] GPU memory allocation failed")
    said = "gave no engine", "GPU memory allocation failed", "--workspace-mib (it is 256)"
    assert_refused(capsys, arguments(folder), *said)
    assert names(folder) == []


def test_bindings_that_throw(trt10, folder, capsys, monkeypatch):
    def refuse(*_):
        raise TypeError("pybind11::init(): factory function\nreturned nullptr")

    monkeypatch.setattr(sys.modules["tensorrt"], "Builder", refuse)
    assert_refused(capsys, arguments(folder), "TensorRT 10.3.0 cannot build", "returned nullptr")


@pytest.mark.parametrize("has_old", [False, True])
def test_a_full_disk_leaves_what_was_there(trt10, folder, has_old, monkeypatch, capsys):
    if has_old:
        engine.make_engine(job(folder))
    before = {name: (folder / name).read_bytes() for name in names(folder)} if has_old else {}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert_refused(capsys, arguments(folder, "--force"), "cannot be written", "No space left")
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_a_death_between_engine_and_manifest_is_found_out(trt10, folder, monkeypatch):
    engine.make_engine(job(folder))
    write_whole = engine_files.write_whole

    def dies_at_the_manifest(path, content):
        if path.endswith(".json"):
            raise KeyboardInterrupt
        write_whole(path, content + b" of another run")

    monkeypatch.setattr(engine_files, "write_whole", dies_at_the_manifest)
    assert engine.main(arguments(folder, "--force")) == 130
    state = engine.state_of(job(folder), engine.look(job(folder)).machine)
    assert "bytes, expected" in state and "truncated or replaced" in state


# --dry-run


def test_tensorrt_gets_float32_where_the_weights_are_stored_as_int8(trt10, folder, tmp_path):
    path = tmp_path / "int8_weights.onnx"
    shutil.copy(os.path.join(tiny.DATA, path.name), str(path))
    engine.make_engine(job(folder, card=tiny.card_with(path)))
    (plan,) = [item for item in folder.iterdir() if item.suffix == ".engine"]
    assert b"DequantizeLinear" in path.read_bytes()
    assert b"MatMul" in plan.read_bytes() and b"DequantizeLinear" not in plan.read_bytes()


def test_a_dry_run_says_what_would_be_built_and_builds_nothing(dialect, folder, capsys):
    assert engine.main(arguments(folder, "--dry-run", "--precision", "fp16")) == 0
    shown = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    shown = {key: value.strip() for key, value in shown.items()}
    version = fake_tensorrt.VERSIONS[dialect]
    assert shown["engine"] == str(folder / ("tiny_8x6_fp16_trt%s_sm53.engine" % version))
    assert shown["TensorRT"] == version
    assert shown["GPU"] == "Stand-in GPU, compute capability 5.3, CUDA 10.2"
    assert "(%s)" % graph_of(dialect, "fp16") in shown["graph"]
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


def test_a_dry_run_tells_what_would_be_refused(trt10, tmp_path, capsys):
    trt10.set(FAKE_CUDA_FREE_MIB=1)
    (tmp_path / "file").write_text("")
    assert engine.main(arguments(tmp_path / "file" / "engines", "--dry-run")) == 1
    shown = capsys.readouterr().out
    assert shown.count("would be refused") == 2
    assert "GPU memory" in shown and "engines cannot be written there" in shown


# As a process


def start(dialect, *arguments):
    """The command as a process that finds the stand-ins as it would the real libraries."""
    return subprocess.Popen(
        [sys.executable, "-m", "segmentation_node.engine"] + list(arguments),
        cwd=PROJECT,
        env=dict(os.environ, **environment(dialect)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def test_the_command(gpu, folder):
    process = start("8.2", *arguments(folder))
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.startswith("wrote ")


def test_ctrl_c_ends_a_build_at_once_and_leaves_nothing(gpu, folder, tmp_path):
    gpu.set(FAKE_TENSORRT_BUILD_S=600, PYTHONPATH=os.pathsep.join([str(tmp_path), PROJECT]))
    # Says when it is so far, since progress comes only every ten seconds.
    (tmp_path / "sitecustomize.py").write_text(
        "from segmentation_node.backends.tensorrt import build\nbuild.LINE_S = 0.05\n"
    )
    process = start("8.2", *arguments(folder))
    while "building" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == -signal.SIGINT
    assert names(folder) == []
