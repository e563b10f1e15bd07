"""A result is held against the original on each run time; what the run times lack is no fault."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper
from support.foreign_networks import CLASSES, SIZE, Network, labels_file

from segmentation_node.errors import BackendError, NetworkImportError
from segmentation_node.importing import agreement, original, variants
from segmentation_node.importing.__main__ import main
from segmentation_node.importing.settings import label_set_of


def test_functions_of_the_files_own_are_no_obstacle(images, tmp_path, capsys):
    """OpenVINO reads none; what is made of the file has none."""
    network = Network(opset=17)
    network.nodes.append(helper.make_node("Twice", [network.scores], ["twice"], domain="own"))
    model = onnx.load(str(network.gives("twice").save(tmp_path / "net.onnx")))
    body = [helper.make_node("Add", ["x", "x"], ["y"])]
    opset = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "Twice", ["x"], ["y"], body, opset))
    model.opset_import.append(helper.make_opsetid("own", 1))
    onnx.save(model, str(tmp_path / "net.onnx"))
    labels = labels_file(tmp_path / "labels.yaml")
    arguments = [str(tmp_path / "net.onnx"), "--output", str(tmp_path / "model"), "--dry-run"]
    options = ["--scale", "0.004", "--labels", str(labels), "--images", str(images)]
    assert main([*arguments, *options]) == 0
    said = capsys.readouterr().out
    assert "the result on OpenVINO and the original on ONNX Runtime" in said
    assert "the original on OpenVINO and" not in said


@pytest.fixture
def tried(images, tmp_path, capsys):
    """What a dry run of an import says of a small network that is sound."""
    network = Network()
    network.gives(network.scores).save(tmp_path / "net.onnx")
    labels = labels_file(tmp_path / "labels.yaml")
    arguments = [str(tmp_path / "net.onnx"), "--output", str(tmp_path / "model"), "--dry-run"]
    options = ["--scale", "0.004", "--labels", str(labels), "--images", str(images)]

    def run():
        assert main([*arguments, *options]) == 0
        return capsys.readouterr().out

    return run


def test_what_openvino_cannot_load_is_for_onnx_runtime(tried, monkeypatch):
    """Operators of ONNX Runtime's own, say; at the node ``auto`` leaves OpenVINO out."""
    made = agreement.maps_of_folder

    def maps_of_folder(folder, backend, pictures):
        if backend == "openvino":
            raise BackendError("it has no operator Own")
        return made(folder, backend, pictures)

    monkeypatch.setattr(agreement, "maps_of_folder", maps_of_folder)
    assert "not compared on OpenVINO: it has no operator Own" in tried()


def test_run_times_may_differ_on_the_file_itself(tried, monkeypatch):
    """Here each gives the classes in the other's reverse order, result and original alike."""
    made = agreement.maps_of_folder

    def maps_of_folder(folder, backend, pictures):
        maps = made(folder, "onnxruntime", pictures)
        return [CLASSES - 1 - item for item in maps] if backend == "openvino" else maps

    def on_openvino(path, entry, shape, head):
        run = original.on_onnxruntime(path, entry)
        return lambda values: {name: value[:, ::-1] for name, value in run(values).items()}

    monkeypatch.setattr(agreement, "maps_of_folder", maps_of_folder)
    monkeypatch.setattr(original, "on_openvino", on_openvino)
    said = tried()
    assert "agreement     100.0000% of the pixels: the result and the original on OpenVINO" in said
    assert "the run times differ on the file itself" in said


def test_openvino_computes_the_original_in_float32(tmp_path):
    random = np.random.default_rng(0)
    network = Network(channels=32)
    value = network.scores
    for index in range(3):
        weights = random.normal(0, 0.1, (32, 32, 3, 3)).astype(np.float32)
        value = network.add("Conv", [value, network.constant(f"w{index}", weights)], pads=[1] * 4)
    path = network.gives(value).save(tmp_path / "net.onnx")
    pixels = random.random((1, 3, *SIZE), np.float32)
    found = original.on_openvino(path, "pixels", pixels.shape, value)(pixels)[value]
    expected = original.on_onnxruntime(path, "pixels")(pixels)[value]
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.fixture
def compared(monkeypatch):
    """What is said when the original gives one class map, and the result another."""

    def run(of_original, of_result):
        monkeypatch.setattr(agreement, "original_on", lambda run, plan: lambda _: of_original)
        monkeypatch.setattr(agreement, "maps_of_folder", lambda *_: [of_result])
        monkeypatch.setattr(agreement, "openvino_missing", lambda: "not asked")
        plan = SimpleNamespace(labels=label_set_of("street", ["road", "pole"]))
        said = []
        say = lambda what, text: said.append(text)  # noqa: E731
        agreement.compare(Path("net.onnx"), Path(), plan, None, [of_original], say)
        return said[0]

    return run


def road_with_a_pole_of(pixels):
    classes = np.zeros(400 * 400, np.uint8)
    classes[:pixels] = 1
    return classes.reshape(400, 400)


def test_a_class_of_less_than_a_thousandth_is_not_lost_in_silence(compared):
    pole, none = road_with_a_pole_of(150), road_with_a_pole_of(0)
    for one, other in ((pole, none), (none, pole)):
        with pytest.raises(NetworkImportError) as raised:
            compared(one, other)
        assert "agree on 0.0% of the pixels that either gives to pole" in str(raised.value)
        assert "expected 80%; nothing was written" in str(raised.value)
    # 120 of the 150 are in both; so few as 99 may all be edge.
    assert compared(pole, road_with_a_pole_of(121)).startswith(
        "99.9819% of the pixels, 80.7% of pole:"
    )
    assert compared(road_with_a_pole_of(99), none).startswith(
        "99.9381% of the pixels, 99.9% of road:"
    )


def test_a_form_without_one_of_the_classes_is_left_out(tried, monkeypatch):
    """At int8's 99 % of the pixels it may have lost one; 0 % stands for that in small pictures."""
    made = variants._maps_of_file

    def without_the_usual_class(path, variant, pictures):
        maps = made(path, variant, pictures)
        usual = np.bincount(np.ravel(maps)).argmax()
        return [
            np.where(item == usual, (usual + 1) % CLASSES, item).astype(np.uint8) for item in maps
        ]

    monkeypatch.setattr(variants, "_maps_of_file", without_the_usual_class)
    monkeypatch.setattr(variants, "LEAST_OF_VARIANT", {"float": 0.0})
    said = tried()
    assert "left out      model_float.onnx: it and model.onnx agree on 0.0% of the pixels" in said
    assert "that either gives to class" in said
    assert "TensorRT      not 8.2: model_float.onnx was left out" in said
