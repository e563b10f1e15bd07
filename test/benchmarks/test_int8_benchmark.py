"""The benchmark of int8: quantisation of a small network, and the rule that judges it."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.int8_graph import count_int8_convolutions
from support.training_runs import write_camvid

from benchmarks import int8
from benchmarks.int8 import VARIANTS, quantise
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.importing.model_folder import forms_of
from segmentation_node.importing.quantise import prepare, quantise_convolutions
from segmentation_node.labels import CAMVID_11
from segmentation_node.model_card import read_card
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from segmentation_node.pipeline import Batch, Segmenter
from training.card import make_card
from training.onnx_graph import export_onnx, graph_variant
from training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = (32, 48)
CONVOLUTIONS, OF_3X3 = 42, 17
"""In fast_elu_squeezenet: the stem and the classifier stay in float."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Folder of a model of random weights."""
    folder = tmp_path_factory.mktemp("models") / "small"
    folder.mkdir()
    recipe = Recipe(network="fast_elu_squeezenet", dataset="camvid", epochs=1, crop_size=SIZE)
    torch.manual_seed(0)
    network = build_network(recipe.network, len(CAMVID_11), {}).eval()
    graph = DeployGraph(Normalise(recipe.mean_rgb, recipe.std_rgb), network, True)
    save_file(network.state_dict(), folder / "weights.safetensors")
    export_onnx(graph_variant(graph, "uint8"), SIZE, 1, CAMVID_11.name, folder / "model.onnx")
    card = make_card(recipe, "small", folder, forms_of(["uint8"], [SIZE]), CAMVID_11, "a test")
    (folder / "model.yaml").write_text(yaml.safe_dump(card))
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def prepared(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "prepared.onnx"
    prepare(model / "model.onnx", path)
    return path


def images(count):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (1, *SIZE, 3), np.uint8) for _ in range(count)]


def class_map(path, image):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(["class_map"], {"image": image})[0]


@pytest.mark.parametrize(
    "name, wanted",
    [
        ("convolutions", CONVOLUTIONS - 2),
        ("convolutions_qoperator", CONVOLUTIONS - 2),
        ("convolutions_percentile", CONVOLUTIONS - 2),
        ("convolutions_3x3", OF_3X3 - 1),
        ("convolutions_and_between", CONVOLUTIONS - 2),
    ],
)
def test_convolutions_become_int8_and_classes_stay(name, wanted, prepared, tmp_path):
    output = tmp_path / "int8.onnx"
    quantise(prepared, VARIANTS[name], images(4), output)
    model = onnx.load(output)
    assert count_int8_convolutions(model) == wanted
    operators = {node.op_type for node in model.graph.node}
    assert ("QLinearConv" in operators) == (name == "convolutions_qoperator")
    assert ("QuantizeLinear" in operators) and "DequantizeLinear" in operators
    (image,) = images(5)[4:]
    agreement = (class_map(output, image) == class_map(prepared, image)).mean()
    assert agreement > 0.9
    # Rounding to 8 bits shows: the same graph in float would agree everywhere.
    assert count_int8_convolutions(onnx.load(prepared)) == 0


def test_the_first_form_is_the_one_that_is_exported(model, prepared, tmp_path):
    quantise(prepared, VARIANTS["convolutions"], images(4), tmp_path / "measured.onnx")
    quantise_convolutions(model / "model.onnx", images(4), tmp_path / "exported.onnx")
    measured, exported = (tmp_path / name for name in ("measured.onnx", "exported.onnx"))
    assert measured.read_bytes() == exported.read_bytes()


def test_the_command_measures_int8_beside_the_shipped_graph(model, root, tmp_path, capsys):
    output = tmp_path / "int8.json"
    arguments = ["--model", str(model), "--root", str(root), "--variants", "convolutions"]
    arguments += ["--run-times", "onnxruntime", "--images", "5", "--other-sizes", "64x32"]
    arguments += ["--threads", "1", "--rounds", "1", "--runs", "2"]
    int8.main([*arguments, "--output", str(output)])
    content = json.loads(output.read_text())
    assert content["settings"]["run_times"] == {"onnxruntime": onnxruntime.__version__}
    rows = content["results"]
    assert [(row["variant"], row["image"]) for row in rows] == [
        ("fp32", "48x32"),
        ("convolutions", "48x32"),
        ("fp32", "64x32"),
        ("convolutions", "64x32"),
    ]
    for fp32, quantised in (rows[:2], rows[2:]):
        assert fp32["ratio"] == 1.0
        assert quantised["ratio"] == quantised["median_ms"] / fp32["median_ms"]
        assert quantised["bytes"] < fp32["bytes"] / 2
    assert rows[0]["mean_iou"] == shipped_mean_iou(model, root)
    assert 0 <= rows[1]["mean_iou"] <= 1 and rows[2]["mean_iou"] is None
    assert "wins over fp32" in capsys.readouterr().out
    assert not list(model.glob("*convolutions*"))


def shipped_mean_iou(model, root):
    """What the evaluation says of the model as it is."""
    with open_backend("onnxruntime", read_card(str(model)), BackendOptions()) as backend:
        run = evaluate_dataset(Segmenter(Batch(backend)), open_dataset("camvid", str(root), "val"))
    return run.accuracy.matrix.mean_iou()


@pytest.mark.parametrize(
    "ratio, loss, wins",
    [(0.95, 0.0099, True), (0.5, -0.01, True), (0.96, 0.0, False), (0.5, 0.011, False)],
)
def test_the_rule_wants_both_time_and_accuracy(ratio, loss, wins):
    row = {"run_time": "onnxruntime", "image": "48x32"}
    rows = [
        {**row, "variant": "fp32", "ratio": 1.0, "mean_iou": 0.5},
        {**row, "variant": "convolutions", "ratio": ratio, "mean_iou": 0.5 - loss},
        {**row, "variant": "convolutions_3x3", "ratio": 0.5, "mean_iou": None},
    ]
    expected = f"`convolutions` ({1 / ratio:.2f} times as fast)" if wins else "no int8 form"
    line = int8.SHOWN.line({"results": rows})
    assert line == f"ONNX Runtime: {expected} wins over fp32."
