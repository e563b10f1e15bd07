"""Engines that do not fit card, file or machine: one line, and the command that mends it."""

import json
import os
import shlex
import sys
from dataclasses import replace

import pytest
from support.core import fake_tensorrt, tiny
from support.core.tensorrt_engines import batch, build, engine_of, open_engine
from support.core.tiny import assert_one_line

from segmentation_node import engine
from segmentation_node.backends import BackendOptions
from segmentation_node.backends.tensorrt import engine_files
from segmentation_node.errors import BackendError

pytest.importorskip("onnxruntime", reason="NOT RUN: the stand-in computes with ONNX Runtime")


def edit_manifest(path, **changes):
    manifest = engine_files.manifest_path(path)
    with open(manifest) as content:
        values = json.load(content)
    values.update(changes)
    with open(manifest, "w") as out:
        json.dump({key: value for key, value in values.items() if value is not None}, out)


def read(path):
    with open(path, "rb") as content:
        return content.read()


def write(path, content):
    with open(path, "wb") as out:
        out.write(content)


def no_engine(path):
    os.unlink(path)
    return ["no such engine"]


def truncated(path):
    plan = read(path)
    write(path, plan[:-100])
    return ["it has %d bytes, expected %d" % (len(plan) - 100, len(plan))]


def empty(path):
    write(path, b"")
    return ["it has 0 bytes"]


def changed(path):
    plan = bytearray(read(path))
    plan[-1] ^= 1
    write(path, bytes(plan))
    return ["its sha256 is " + engine_files.sha256(bytes(plan)), "expected"]


def of_another_tensorrt(path):
    edit_manifest(path, tensorrt="7.1.3.0")
    version = sys.modules["tensorrt"].__version__
    return ["it was built for TensorRT 7.1.3.0, expected " + version]


def of_another_gpu(path):
    edit_manifest(path, compute_capability="8.7")
    return ["it was built for compute capability 8.7, expected 5.3"]


def of_another_graph(path):
    edit_manifest(path, onnx_sha256="0" * 64)
    return ["sha256 of the ONNX file " + "0" * 64, "expected "]


def of_another_model(path):
    edit_manifest(path, model="other")
    return ["it was built for model other, expected tiny"]


def of_another_precision(path):
    edit_manifest(path, precision="fp16")
    return ["it was built for precision fp16, expected fp32"]


def of_an_unknown_kind(path):
    edit_manifest(path, onnx_kind="onnx_int4")
    return ["no artifact of kind onnx_int4"]


def without_manifest(path):
    os.unlink(engine_files.manifest_path(path))
    return ["the engine has no manifest"]


def with_a_manifest_that_is_no_json(path):
    write(engine_files.manifest_path(path), b"{\n")
    return ["not valid JSON"]


def with_a_manifest_that_is_a_list(path):
    write(engine_files.manifest_path(path), b"[1]")
    return ["is a list, expected keys"]


def with_a_manifest_of_bytes(path):
    write(engine_files.manifest_path(path), b"\xff\x00")
    return ["not valid JSON"]


def with_a_manifest_that_lacks_a_key(path):
    edit_manifest(path, engine_bytes=None)
    return ["lacks the keys ['engine_bytes']"]


def with_a_manifest_of_wrong_types(path):
    edit_manifest(path, engine_bytes="many")
    return ["has engine_bytes 'many', expected int"]


def of_another_format(path):
    edit_manifest(path, format=2)
    return ["has format 2, expected 1"]


def with_other_tensors(path):
    tensors = json.loads(read(engine_files.manifest_path(path)).decode())["tensors"]
    tensors[0]["shape"][1] += 2
    edit_manifest(path, tensors=tensors)
    return ["inputs and outputs are ", "image ", "(1, 8, 8, 3)", "the model card expects"]


def with_tensors_that_are_none(path):
    edit_manifest(path, tensors=["image", 3])
    return ["its manifest has tensors ['image', 3]", "expected name, direction, shape and dtype"]


def that_tensorrt_refuses(path):
    """Whole, by the manifest, but of other serialisation: deserialise gives None."""
    plan = read(path).replace(fake_tensorrt.MAGIC, b"OTHERTRT")
    write(path, plan)
    edit_manifest(path, engine_sha256=engine_files.sha256(plan))
    return ["cannot read it: ", "Magic tag does not match"]


FAULTS = [
    no_engine,
    truncated,
    empty,
    changed,
    of_another_tensorrt,
    of_another_gpu,
    of_another_graph,
    of_another_model,
    of_another_precision,
    of_an_unknown_kind,
    without_manifest,
    with_a_manifest_that_is_no_json,
    with_a_manifest_that_is_a_list,
    with_a_manifest_of_bytes,
    with_a_manifest_that_lacks_a_key,
    with_a_manifest_of_wrong_types,
    of_another_format,
    with_other_tensors,
    with_tensors_that_are_none,
    that_tensorrt_refuses,
]


@pytest.mark.parametrize("dialect", ["8.2", "10"], indirect=True)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_an_engine_that_does_not_fit_is_one_line_with_the_command_that_mends_it(
    built, gpu, card, options, fault, capsys
):
    fragments = fault(built)
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, built, "build it with: python3 -m segmentation_node.engine", *fragments)
    assert gpu.leaks() == 0
    command = shlex.split(str(caught.value).split("build it with: ")[1])
    arguments = command[command.index("segmentation_node.engine") + 1 :]
    assert engine.main(arguments) == 0, capsys.readouterr().err
    with open_engine(card, options) as backend:
        backend.run(batch())


def test_an_engine_of_other_tensors_than_its_manifest_says(built, gpu, card, options):
    """The card and the manifest agree that there is a class map alone."""
    alone = replace(card, outputs=["class_map"])
    tensors = json.loads(read(engine_files.manifest_path(built)).decode())["tensors"]
    edit_manifest(built, tensors=tensors[:2])
    with pytest.raises(BackendError) as caught:
        open_engine(alone, options)
    assert_one_line(caught, built, "inputs and outputs are ", "confidence ", "--force")
    assert gpu.leaks() == 0


def test_an_unfit_engine_is_never_deserialised(built, gpu, card, options):
    changed(built)
    fake_tensorrt.used_names.clear()
    with pytest.raises(BackendError):
        open_engine(card, options)
    assert not [name for name in fake_tensorrt.used_names if name.startswith("Runtime")]
    assert gpu.calls("cudaMalloc") == 0


def test_engines_of_other_machines_are_named(gpu, card, options):
    gpu.install("8.2")
    build(card, options)
    gpu.install("10")
    gpu.set(FAKE_CUDA_CAPABILITY="8.7")
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(
        caught,
        "_trt10.3.0_sm87.engine: no such engine",
        "(there is fp32 for TensorRT 8.2.1.8 and compute capability 5.3)",
    )


def test_an_engine_that_was_renamed_for_another_machine_is_found_out(gpu, card, options):
    gpu.install("8.2")
    old = build(card, options)
    gpu.install("8.6")
    new = engine_of(card, options)
    os.rename(old, new)
    os.rename(engine_files.manifest_path(old), engine_files.manifest_path(new))
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "it was built for TensorRT 8.2.1.8, expected 8.6.1")


def test_the_command_names_what_differs_from_the_defaults(card, tmp_path):
    plain = engine_files.build_command(card, BackendOptions())
    assert plain == "python3 -m segmentation_node.engine --model %s --precision fp32" % tiny.FOLDER
    odd = BackendOptions("cuda:1", "fp16", engine_dir=str(tmp_path / "my engines"))
    arguments = shlex.split(engine_files.build_command(card, odd))
    parsed = engine.parse(arguments[3:])
    assert (parsed.device, parsed.precision) == ("cuda:1", "fp16")
    assert parsed.engine_dir == str(tmp_path / "my engines")
