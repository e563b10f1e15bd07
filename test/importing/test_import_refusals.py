"""What cannot be imported is one line, exit code 1, and nothing left behind."""

import hashlib
import shlex
import subprocess

import numpy as np
import onnx
import pytest
from onnx import external_data_helper
from support.foreign_networks import CLASSES, FLOAT, INT64, Network, labels_file, pictures

from segmentation_node.importing import importer, original
from segmentation_node.importing.__main__ import main
from segmentation_node.importing.foreign import read_network


@pytest.fixture
def network(tmp_path):
    made = Network()
    return made.gives(made.scores).save(tmp_path / "net.onnx")


@pytest.fixture
def refused(tmp_path, capsys, images):
    """Import a file that is refused; gives its one line."""

    def run(network, *options, scale=True, labels=CLASSES, real=True):
        arguments = [str(network), "--output", str(tmp_path / "model"), *options]
        arguments += ["--scale", "0.004"] if scale else []
        arguments += ["--images", str(images)] if real else []
        if labels:
            arguments += ["--labels", str(labels_file(tmp_path / "labels.yaml", labels))]
        before = sorted(tmp_path.iterdir())
        assert main(arguments) == 1
        assert sorted(tmp_path.iterdir()) == before
        shown = capsys.readouterr()
        assert shown.err.count("\n") == 1 and shown.err.startswith("error: ")
        return shown.err

    return run


def with_channels(path, channels):
    """A network whose input has so many channels."""
    random = np.random.default_rng(0).normal(size=(CLASSES, channels, 1, 1)).astype(np.float32)
    made = Network()
    model = onnx.load(str(made.gives(made.scores).save(path)))
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = channels
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(random, "weights"))
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("channels", [1, 4])
def test_an_input_of_another_number_of_channels(channels, refused, tmp_path):
    line = refused(with_channels(tmp_path / "net.onnx", channels))
    assert f"its input has {channels} channels" in line and "expected 3" in line


def test_two_outputs(refused, tmp_path):
    made = Network()
    other = made.add("Sigmoid", [made.scores])
    network = made.gives(made.scores).gives(other).save(tmp_path / "net.onnx")
    line = refused(network)
    assert "2 outputs: Conv_0 [1, 5, 24, 40], Sigmoid_1 [1, 5, 24, 40]" in line
    assert "--output-head" in line
    assert "no output 'third'; there are" in refused(network, "--output-head", "third")


def test_the_wrong_one_of_several_outputs_names_the_others(refused, tmp_path):
    """A confidence beside the scores, and scores that were rounded away."""
    made = Network()
    highest = made.add("ReduceMax", [made.add("Softmax", [made.scores], axis=1)], axes=[1])
    whole = made.add("Cast", [made.scores], to=INT64)
    made.gives(made.scores).gives(highest).gives(whole, INT64)
    network = made.save(tmp_path / "net.onnx")
    line = refused(network, "--output-head", highest)
    assert "1 channel of probability, but label set foreign has 5 classes" in line
    others = f"{made.scores} [1, 5, 24, 40], {whole} [1, 5, 24, 40]"
    assert f"this is of {highest}, --output-head takes another: {others}" in line
    line = refused(network, "--output-head", whole)
    assert "neither scores nor ids" in line and f"{highest} [1, 1, 24, 40]" in line
    alone = Network()
    whole = alone.add("Cast", [alone.scores], to=INT64)
    line = refused(alone.gives(whole, INT64).save(tmp_path / "net.onnx"))
    assert "neither scores nor ids" in line and "--output-head" not in line


def test_outputs_that_are_no_tensors(refused, tmp_path):
    made = Network()
    parts = made.add("SequenceConstruct", [made.scores])
    path = made.gives(made.scores).save(tmp_path / "net.onnx")
    model = onnx.load(str(path))
    model.graph.output.append(onnx.helper.make_tensor_sequence_value_info(parts, FLOAT, None))
    onnx.save(model, str(path))
    # What is a tensor is the one to choose; OpenVINO, where it is installed, reads no such file.
    line = refused(path, "--output-head", parts)
    assert f"no output '{parts}'; there are: Conv_0 [1, 5, 24, 40]" in line
    del model.graph.output[0]
    onnx.save(model, str(path))
    assert "none of its outputs is a tensor" in refused(path)


def test_sides_of_minus_one_are_not_fixed(refused, network):
    model = onnx.load(str(network))
    for index in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[index].dim_value = -1
    onnx.save(model, str(network))
    assert "give --size HxW" in refused(network)


def test_weights_that_are_elsewhere(refused, network):
    model = onnx.load(str(network))
    external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, str(network))
    (network.parent / "w.bin").unlink()
    assert "its weights are in 'w.bin', which cannot be read" in refused(network)


def test_weights_behind_a_link(refused, network):
    """As in Hugging Face's cache; onnx follows none. Copied as the line says they are read."""
    model = onnx.load(str(network))
    external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    folder = network.parent / "snapshot"
    folder.mkdir()
    onnx.save(model, str(folder / "net.onnx"))
    (folder / "w.bin").rename(network.parent / "blob")
    (folder / "w.bin").symlink_to(network.parent / "blob")
    line = refused(folder / "net.onnx", "--dry-run")
    assert "its weights are in 'w.bin', which is a link" in line
    command = line[line.index("cp -rL") :].strip().replace("COPY", str(network.parent / "copy"))
    subprocess.run(shlex.split(command), check=True)
    read_network(network.parent / "copy" / "net.onnx")


def test_weights_beside_the_file(network, tmp_path, images):
    model = onnx.load(str(network))
    external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, str(network))
    labels = labels_file(tmp_path / "labels.yaml")
    options = ["--scale", "0.004", "--labels", str(labels), "--images", str(images), "--dry-run"]
    assert main([str(network), "--output", str(tmp_path / "model"), *options]) == 0
    weights = (network.parent / "w.bin").read_bytes()
    both = hashlib.sha256(network.read_bytes() + weights).hexdigest()
    assert read_network(network).sha256 == both
    (network.parent / "w.bin").write_bytes(weights[::-1])
    assert read_network(network).sha256 != both


def test_weights_that_one_file_cannot_hold(refused, network, monkeypatch):
    model = onnx.load(str(network))
    external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
    onnx.save(model, str(network))
    monkeypatch.setattr("segmentation_node.importing.foreign.MOST_BYTES", 16)
    assert "weights are more than 2 GiB" in refused(network)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_file_that_was_cut_off(share, refused, network):
    content = network.read_bytes()
    network.write_bytes(content[: int(share * len(content))])
    assert "no whole ONNX file" in refused(network)


def test_a_convolution_of_nothing(refused, network):
    model = onnx.load(str(network))
    del model.graph.node[0].input[:]
    onnx.save(model, str(network))
    assert "ONNX Runtime cannot load it" in refused(network, "--layout", "nchw")


def test_what_is_no_network(refused, tmp_path):
    path = tmp_path / "net.onnx"
    assert "no such file" in refused(path)
    path.write_bytes(b"")
    assert "no whole ONNX file" in refused(path)
    path.write_text("not a network")
    assert "no whole ONNX file" in refused(path)
    path.rename(tmp_path / "inner.onnx")
    path.mkdir()  # as Qualcomm AI Hub calls a network and its weights
    assert "net.onnx: a folder; expected" in refused(path)
    (tmp_path / "inner.onnx").rename(path / "model.onnx")
    assert "net.onnx: a folder, in it model.onnx; expected" in refused(path)


@pytest.mark.parametrize(
    "ending, whose, advice",
    [
        (".xml", "OpenVINO reads this but writes no ONNX", "to ONNX"),
        (".tflite", "OpenVINO reads this but writes no ONNX", "tf2onnx"),
        (".bin", "weights of OpenVINO or PyTorch", "to ONNX"),
        (".pt", "PyTorch's", "torch.onnx.export("),
        (".PTH", "PyTorch's", "torch.onnx.export("),
        (".safetensors", "PyTorch's", "torch.onnx.export("),
        (".keras", "Keras's", "format='onnx'"),
        (".engine", "TensorRT", "the ONNX file that it was built of"),
        (".pdmodel", "PaddlePaddle's", "paddle2onnx"),
        (".zip", "an archive", "unpack it"),
    ],
)
def test_what_others_read(ending, whose, advice, refused, tmp_path):
    path = tmp_path / ("net" + ending)
    path.write_bytes(b"anything")
    line = refused(path)
    assert whose in line and advice in line


def test_a_format_that_is_newer_than_onnx_runtime(refused, network, tmp_path, monkeypatch):
    """What the line says to do is done, and the file loads."""
    model = onnx.load(str(network))
    model.ir_version = 99
    onnx.save(model, str(network))
    line = refused(network)
    assert "ONNX Runtime cannot load it (Unsupported model IR version: 99" in line
    command = line[line.index('"') + 1 : line.rindex('"')]
    monkeypatch.chdir(tmp_path)
    exec(command)
    original.on_onnxruntime(tmp_path / "NET.onnx", "pixels")


def test_what_nobody_says(refused, network, tmp_path):
    assert "give --from FAMILY, or --scale, --mean and --std" in refused(network, scale=False)
    assert "5 channels of logits without names; give --labels" in refused(network, labels=0)
    assert "one of" not in refused(network, labels=0)  # no built-in set has five classes
    made = Network()
    made.gives(made.add("ArgMax", [made.scores], axis=1), INT64).save(network)
    line = refused(network, labels=0)
    assert "ids up to 3 without names" in line and "or with one of ade20k150, camvid11" in line
    made = Network()
    made.gives(made.scores).save(network, dynamic=True)
    assert "give --size HxW" in refused(network)


def test_ids_of_one_class(refused, tmp_path):
    """Where 0 alone is seen, it may be the class or what is none."""
    made = Network()
    ids = made.add("ArgMax", [made.scores], axis=1, keepdims=1)
    none = made.add("Mul", [ids, made.constant("none", np.array(0))])
    network = made.gives(none, INT64).save(tmp_path / "net.onnx")
    line = refused(network, labels=1)
    assert "has one class, which may be 0 or 1; give --id-offset 0, or --id-offset -1" in line


def test_what_contradicts_the_file(refused, network):
    assert "fixed at 24x40, but --size is 32x40" in refused(network, "--size", "32x40")
    sizes = ["--size", "24x40", "--size", "32x40"]
    assert "fixed at 24x40, but --size is 32x40" in refused(network, *sizes)
    line = refused(network, labels=CLASSES + 2)
    assert "5 channels of logits, but label set foreign has 7 classes" in line
    assert "leave --threshold out" in refused(network, "--threshold", "0.5")
    assert "std [0.0, 1.0, 1.0]; expected" in refused(network, "--std", "0", "1", "1")


@pytest.mark.parametrize(
    "options, found",
    [
        ([*"--mean .485 .456 .406 --std .229 .224 .225".split()], "0 to 255 (scale 1, default)"),
        ([*"--from smp --mean 123.7 116.3 103.5 --std 58.4 57.1 57.4".split()], "0 to 1 (scale"),
        (
            [*"--from open_model_zoo --mean .5 .5 .5 --std .5 .5 .5".split()],
            "0 to 255 (scale 1, usu",
        ),
    ],
)
def test_a_mean_of_another_range_than_the_pixels(options, found, refused, network):
    """A mean of 0 to 1 under pixels of 0 to 255 gives a class map, and a wrong one."""
    line = refused(network, *options, scale=False)
    assert f"but pixels of {found}" in line and "give --scale too" in line


def test_an_unknown_family(refused, network):
    assert "unknown family 'yolo'; known: bisenet" in refused(network, "--from", "yolo")


def test_too_few_pictures(refused, network, tmp_path):
    few = pictures(tmp_path / "few", count=9)
    line = refused(network, "--images", str(few), real=False)
    assert "found 9 pictures" in line and "expected 10 or more" in line
    (few / "09.png").write_bytes((few / "08.png").read_bytes()[:60])
    assert "cut off or broken" in refused(network, "--images", str(few), real=False)
    absent = str(tmp_path / "absent")
    assert "no such folder" in refused(network, "--images", absent, real=False)


def test_a_result_that_is_not_the_original(refused, network, monkeypatch):
    made = importer.in_contract

    def with_red_and_blue_swapped(static, plan, *variant):
        return made(static, type(plan)(**{**vars(plan), "order": "bgr"}), *variant)

    monkeypatch.setattr(importer, "in_contract", with_red_and_blue_swapped)
    line = refused(network)
    assert "the result and the original on ONNX Runtime agree on" in line
    assert "expected 99.9%; nothing was written" in line


def test_a_folder_of_something_else(network, tmp_path, images, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    labels = labels_file(tmp_path / "labels.yaml")
    options = ["--scale", "0.004", "--labels", str(labels), "--images", str(images)]
    assert main([str(network), "--output", str(folder), *options]) == 1
    assert "it holds thesis.txt" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_options_that_say_nothing(network, tmp_path, capsys):
    for option in (["--size", "0x4"], ["--scale", "nan"], ["--id-offset", "999"], ["--size", "8"]):
        with pytest.raises(SystemExit) as left:
            main([str(network), "--output", str(tmp_path / "model"), *option])
        assert left.value.code == 2
        assert option[1] in capsys.readouterr().err.splitlines()[-1]
