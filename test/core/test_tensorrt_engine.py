"""The engine builder on stand-ins: what it makes in every dialect, what it refuses and leaves."""

import errno
import json
import os
import sys
from dataclasses import replace

import pytest
from support.core import fake_tensorrt, tiny
from support.core.tensorrt_engines import WORKSPACE_MIB, arguments, job, names
from support.core.tiny import assert_one_line

from segmentation_node import engine
from segmentation_node.backends.tensorrt import build_checks, engine_files
from segmentation_node.backends.tensorrt.build_progress import BuildProgress
from segmentation_node.errors import BackendError
from segmentation_node.model_card import sha256_of

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")


@pytest.fixture
def folder(tmp_path):
    """The engine folder; not there yet."""
    return tmp_path / "engines"


def with_onnx(file_name, kinds=("onnx", "onnx_float")):
    """The tiny card with another graph."""
    path = os.path.join(tiny.DATA, file_name)
    artifact = replace(
        tiny.card().artifacts[0], file=file_name, sha256=sha256_of(path), version="other"
    )
    artifacts = [replace(artifact, kind=kind) for kind in kinds]
    return replace(tiny.card(), artifacts=artifacts, folder=tiny.DATA)


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
    kind = "onnx"
    if dialect == "8.2":
        kind = "onnx_float"
    elif (dialect, precision) == ("11", "fp16"):
        kind = "onnx_fp16"
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
    assert capsys.readouterr().out.startswith("wrote ")
    (path,) = [folder / name for name in names(folder) if name.endswith(".engine")]
    before = os.stat(str(path)).st_ino
    assert engine.main(arguments(folder)) == 0
    assert capsys.readouterr().out == "%s is built and good; --force builds it again\n" % path
    assert os.stat(str(path)).st_ino == before
    assert engine.main(arguments(folder, "--force")) == 0
    assert os.stat(str(path)).st_ino != before


def test_the_timing_cache_is_kept_and_used_again(dialect, folder):
    engine.make_engine(job(folder))
    (path,) = [folder / name for name in names(folder) if name.endswith(".cache")]
    assert path.read_bytes() == b"cache %s+" % dialect.encode()
    engine.make_engine(job(folder, "fp16"))
    assert path.read_bytes() == b"cache %s++" % dialect.encode()


def test_a_timing_cache_of_another_machine_is_replaced_and_said(gpu, folder, tmp_path, capsys):
    gpu.install("10")
    cache = tmp_path / "my.cache"
    cache.write_bytes(b"cache of another machine")
    assert engine.main(arguments(folder, "--timing-cache", str(cache))) == 0
    assert "note: the timing cache does not fit this machine" in capsys.readouterr().out
    assert cache.read_bytes() == b"cache 10+"


def test_an_engine_counts_although_its_timing_cache_cannot_be_kept(gpu, folder, tmp_path, capsys):
    gpu.install("10")
    (tmp_path / "a file").write_text("")
    cache = tmp_path / "a file" / "my.cache"
    assert engine.main(arguments(folder, "--timing-cache", str(cache))) == 0
    out = capsys.readouterr().out
    assert "the timing cache is not kept" in out and "wrote " in out
    assert engine.state_of(job(folder), engine.look(job(folder)).machine) == ""


def test_slow_half_precision_is_said(gpu, folder, capsys):
    gpu.install("8.6")
    gpu.set(FAKE_TENSORRT_SLOW_FP16=1)
    assert engine.main(arguments(folder, "--precision", "fp16")) == 0
    assert "note: this GPU has no fast half precision" in capsys.readouterr().out


def test_progress_is_shown(dialect, folder, capsys):
    assert engine.main(arguments(folder)) == 0
    shown = capsys.readouterr().err
    assert ("Building Engine 2/2" if dialect in ("10", "11") else "timing Conv_0 (Cudnn)") in shown


def test_progress_goes_on_while_tensorrt_is_silent(monkeypatch):
    """On a terminal it is one line that is written over."""
    from segmentation_node.backends.tensorrt import build_progress

    class Terminal(object):
        def __init__(self):
            self.text = ""

        def isatty(self):
            return True

        def write(self, text):
            self.text += text

        def flush(self):
            pass

    monkeypatch.setattr(build_progress, "REFRESH_S", 0.001)
    terminal = Terminal()
    with BuildProgress(terminal) as progress:
        progress.report("a long name of a layer")
        while terminal.text.count("\r") < 3:
            pass
        progress.report("b")
    lines = terminal.text.rstrip("\n").split("\r")
    assert terminal.text.count("\n") == 1
    assert "a long name of a layer" in terminal.text
    assert lines[-1].rstrip().endswith("s  b") and len(lines[-1]) >= len(lines[-2])


def test_the_engine_is_for_the_gpu_that_is_asked_for(gpu, folder):
    gpu.install("10")
    gpu.set(FAKE_CUDA_GPUS=2, FAKE_CUDA_CAPABILITY="9.0")
    engine.make_engine(job(folder, device="cuda:1"))
    assert "tiny_8x6_fp32_trt10.3.0_sm90.engine" in names(folder)


# What is refused


def assert_refused(capsys, arguments, *fragments):
    assert engine.main(arguments) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    for fragment in fragments:
        assert fragment in line, line


def test_a_folder_that_cannot_be_written(dialect, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert_refused(
        capsys, arguments(tmp_path / "file" / "engines"), "engines cannot be written there",
        "Not a directory", "--engine-dir", "engine_dir",
    )  # fmt: skip
    assert names(tmp_path) == ["file"]


def test_too_little_memory(gpu, folder, tmp_path, monkeypatch, capsys):
    gpu.install("8.2")
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 4000000 kB\nMemAvailable: 200000 kB\nSwapFree: 100000 kB\n")
    monkeypatch.setattr(build_checks, "MEMORY_FILE", str(meminfo))
    assert_refused(
        capsys, arguments(folder), "292 MiB of memory and swap are free", "about 400", "add swap"
    )
    assert names(folder) == []


def test_too_little_gpu_memory(gpu, folder, capsys):
    gpu.install("8.2")
    gpu.set(FAKE_CUDA_FREE_MIB=300)
    assert_refused(
        capsys, arguments(folder), "300 MiB of GPU memory are free", "about 384", "--workspace-mib"
    )
    assert engine.main(arguments(folder, "--workspace-mib", "100")) == 0


def test_a_jetsons_memory_is_the_hosts(gpu, folder, tmp_path, monkeypatch, capsys):
    """Its file cache can be had, which CUDA does not count; its swap cannot be the GPU's."""
    gpu.install("8.2")
    gpu.set(FAKE_CUDA_FREE_MIB=1, FAKE_CUDA_INTEGRATED=1)
    meminfo = tmp_path / "meminfo"
    monkeypatch.setattr(build_checks, "MEMORY_FILE", str(meminfo))
    meminfo.write_text("MemAvailable: 300000 kB\nSwapFree: 4000000 kB\n")
    assert_refused(capsys, arguments(folder), "292 MiB of GPU memory are free", "about 384")
    meminfo.write_text("MemAvailable: 500000 kB\nSwapFree: 0 kB\n")
    assert engine.main(arguments(folder)) == 0


def test_an_unsupported_operator_is_named(dialect, folder):
    with pytest.raises(BackendError) as caught:
        engine.make_engine(job(folder, card=with_onnx("non_zero.onnx")))
    version = fake_tensorrt.VERSIONS[dialect]
    assert_one_line(
        caught, "TensorRT %s does not take operator NonZero" % version, "onnxruntime or torch"
    )
    assert names(folder) == []


def test_a_graph_that_cannot_be_parsed(dialect, folder, monkeypatch):
    card = tiny.card()
    monkeypatch.setattr(engine, "_read", lambda path: b"no graph\nat all")
    with pytest.raises(BackendError) as caught:
        engine.make_engine(job(folder, card=card))
    assert_one_line(caught, "MODEL_DESERIALIZE_FAILED")
    assert names(folder) == []


@pytest.mark.parametrize(
    "dialect, precision, kind",
    [("8.2", "fp16", "onnx_float"), ("11", "fp16", "onnx_fp16")],
    indirect=["dialect"],
)
def test_a_card_without_the_graph_that_is_needed(dialect, folder, precision, kind):
    card = replace(tiny.card(), artifacts=tiny.card().artifacts[:1])
    with pytest.raises(BackendError) as caught:
        engine.make_engine(job(folder, precision, card=card))
    assert_one_line(
        caught, "no artifact of kind " + kind, "it has ['onnx']",
        "python3 -m training.add_variants %s --variant %s" % (tiny.FOLDER, kind[len("onnx_") :]),
    )  # fmt: skip


def test_out_of_memory_while_building(gpu, folder, capsys):
    gpu.install("8.2")
    gpu.set(FAKE_TENSORRT_BUILD_FAILS="2: [utils.cpp::checkMemLimit] GPU memory allocation failed")
    assert_refused(
        capsys, arguments(folder), "TensorRT gave no engine", "GPU memory allocation failed",
        "--workspace-mib (it is 256)",
    )  # fmt: skip
    assert names(folder) == []


def test_a_build_that_fails_otherwise(dialect, gpu, folder, capsys):
    gpu.set(FAKE_TENSORRT_BUILD_FAILS="10: Could not find any implementation for node Conv_3")
    assert_refused(capsys, arguments(folder), "gave no engine: 10: Could not find any")


def test_bindings_that_throw(gpu, folder, capsys, monkeypatch):
    gpu.install("10")

    def refuse(*_):
        raise TypeError("pybind11::init(): factory function\nreturned nullptr")

    monkeypatch.setattr(sys.modules["tensorrt"], "Builder", refuse)
    assert_refused(capsys, arguments(folder), "TensorRT 10.3.0 cannot build", "returned nullptr")


@pytest.mark.parametrize("has_old", [False, True])
def test_a_full_disk_leaves_what_was_there(gpu, folder, has_old, monkeypatch, capsys):
    gpu.install("10")
    if has_old:
        engine.make_engine(job(folder))
    before = {name: (folder / name).read_bytes() for name in names(folder)} if has_old else {}

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert_refused(capsys, arguments(folder, "--force"), "cannot be written", "No space left")
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before


def test_a_death_between_engine_and_manifest_is_found_out(gpu, folder, monkeypatch):
    gpu.install("10")
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


def test_a_missing_tensorrt(gpu, folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert_refused(capsys, arguments(folder), "TensorRT is missing")
    assert not folder.exists()
