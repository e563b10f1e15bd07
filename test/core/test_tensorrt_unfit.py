"""Engines that do not fit card, file or machine: one line, and the command that mends it."""

import json
import os
import shlex
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


def read(path):
    with open(path, "rb") as content:
        return content.read()


def write(path, content):
    with open(path, "wb") as out:
        out.write(content)


def edit_manifest(path, **changes):
    manifest = engine_files.manifest_path(path)
    values = dict(json.loads(read(manifest).decode()), **changes)
    text = json.dumps({key: value for key, value in values.items() if value is not None})
    write(manifest, text.encode())


def truncate(path):
    write(path, read(path)[:-100])


def change_a_bit(path):
    plan = read(path)
    write(path, plan[:-1] + bytes([plan[-1] ^ 1]))


def make_unreadable(path):
    """Whole, by the manifest, but of other serialisation: deserialise gives None."""
    plan = read(path).replace(fake_tensorrt.MAGIC, b"OTHERTRT")
    write(path, plan)
    edit_manifest(path, engine_sha256=engine_files.sha256(plan))


def change_a_shape(path):
    tensors = json.loads(read(engine_files.manifest_path(path)).decode())["tensors"]
    tensors[0]["shape"][1] += 2
    edit_manifest(path, tensors=tensors)


def manifest_is(content):
    return lambda path: write(engine_files.manifest_path(path), content)


def manifest_says(**changes):
    return lambda path: edit_manifest(path, **changes)


FAULTS = [
    (os.unlink, "no such engine"),
    (truncate, "bytes, expected "),
    (lambda path: write(path, b""), "it has 0 bytes"),
    (change_a_bit, "its sha256 is "),
    (make_unreadable, "cannot read it: 1: [runtime.cpp::parsePlan::314] Magic tag does not match"),
    (lambda path: os.unlink(engine_files.manifest_path(path)), "the engine has no manifest"),
    (manifest_is(b"{\n"), "not valid JSON"),
    (manifest_is(b"\xff\x00"), "not valid JSON"),
    (manifest_is(b"[1]"), "it is [1] (list); expected a mapping with the keys"),
    (manifest_says(engine_bytes=None), "missing keys ['engine_bytes']"),
    (manifest_says(engine_bytes="many"), "engine_bytes is 'many' (str); expected int"),
    (manifest_says(format=2), "has format 2, expected 1"),
    (manifest_says(tensors=["image", 3]), "has tensors ['image', 3]; expected name, direction"),
    (
        manifest_says(tensors=[{"name": "", "direction": "", "shape": [1e999], "dtype": ""}]),
        "expected name, direction, shape and dtype of each",
    ),
    (change_a_shape, "(1, 8, 8, 3)"),
    (manifest_says(model="other"), "it was built for model other, expected tiny"),
    (manifest_says(precision="fp16"), "it was built for precision fp16, expected fp32"),
    (manifest_says(tensorrt="7.1.3.0"), "for TensorRT 7.1.3.0, expected 10.3.0"),
    (manifest_says(compute_capability="8.7"), "for compute capability 8.7, expected 5.3"),
    (manifest_says(gpu="Another GPU"), "for GPU Another GPU, expected Stand-in GPU"),
    (manifest_says(onnx_sha256="0" * 64), "sha256 of the ONNX file " + "0" * 64),
    (manifest_says(onnx_kind="onnx_int4"), "no artifact of kind onnx_int4"),
]


@pytest.mark.parametrize("dialect", ["10"], indirect=True)
@pytest.mark.parametrize("spoil, said", FAULTS, ids=[said for _, said in FAULTS])
def test_an_engine_that_does_not_fit_is_one_line_with_the_command_that_mends_it(
    built, gpu, card, options, spoil, said, capsys
):
    spoil(built)
    fake_tensorrt.used_names.clear()
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, built, said, "build it with: python3 -m segmentation_node.engine")
    assert gpu.leaks() == 0
    was_read = "Runtime.deserialize_cuda_engine" in fake_tensorrt.used_names
    assert was_read == (spoil is make_unreadable), "only what the manifest vouches for"
    command = shlex.split(str(caught.value).split("build it with: ")[1])
    arguments = command[command.index("segmentation_node.engine") + 1 :]
    assert engine.main(arguments) == 0, capsys.readouterr().err
    with open_engine(card, options) as backend:
        backend.run(batch())


@pytest.mark.parametrize("dialect", ["8.2", "10"], indirect=True)
def test_an_engine_of_other_tensors_than_its_manifest_says(built, card, options):
    """The card and the manifest agree that there is a class map alone."""
    alone = replace(card, outputs=["class_map"])
    tensors = json.loads(read(engine_files.manifest_path(built)).decode())["tensors"]
    edit_manifest(built, tensors=tensors[:2])
    with pytest.raises(BackendError) as caught:
        open_engine(alone, options)
    assert_one_line(caught, built, "inputs and outputs are ", "confidence ", "--force")


def test_engines_of_other_machines_are_named_and_found_out_where_renamed(gpu, card, options):
    gpu.install("8.2")
    old = build(card, options)
    gpu.install("10")
    gpu.set(FAKE_CUDA_CAPABILITY="8.7")
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    there_is = "(there is fp32 for TensorRT 8.2.1.8 and compute capability 5.3)"
    assert_one_line(caught, "_trt10.3.0_sm87.engine: no such engine", there_is)
    new = engine_of(card, options)
    os.rename(old, new)
    os.rename(engine_files.manifest_path(old), engine_files.manifest_path(new))
    with pytest.raises(BackendError) as caught:
        open_engine(card, options)
    assert_one_line(caught, "it was built for TensorRT 8.2.1.8, expected 10.3.0")


def test_the_command_names_what_differs_from_the_defaults(card, tmp_path):
    plain = engine_files.build_command(card, BackendOptions())
    assert plain == "python3 -m segmentation_node.engine --model %s --precision fp32" % tiny.FOLDER
    odd = BackendOptions("cuda:1", "fp16", engine_dir=str(tmp_path / "my engines"))
    arguments = shlex.split(engine_files.build_command(card, odd))
    parsed = engine.parse(arguments[3:])
    assert (parsed.device, parsed.precision) == ("cuda:1", "fp16")
    assert parsed.engine_dir == str(tmp_path / "my engines")
