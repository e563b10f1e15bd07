"""Weights stored as int8 inside the graph: what is in them, who computes with them, and back."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from support.training_runs import write_recipe

import training.add_variants
import training.export
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.backends.choice import choose
from segmentation_node.backends.onnx_edits import decode_weights
from segmentation_node.errors import BackendError, CardError
from segmentation_node.model_card import read_card
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from training.checkpoint import load_weights
from training.int8_weights import codes_of, round_weights
from training.recipe import Recipe
from training.start_weights import load_start

SIZE = (45, 60)
COARSE = np.random.default_rng(0).integers(0, 256, (3, 1, 3, 4, 3), np.uint8)
IMAGES = COARSE.repeat(15, axis=2).repeat(15, axis=3)
"""Blocks of colours, three runs of one image: uint8 (3, 1, H, W, 3)."""
OPTIONS = {"elu_squeezenet": {"batch_norm": True}}


# Codes


@pytest.mark.parametrize("axis", [0, 1])
def test_codes_are_within_half_a_step_and_stay_what_they_are(axis):
    weight = np.random.default_rng(1).normal(0, 0.1, (8, 5, 3, 3)).astype(np.float32)
    weight[2, 2] = 0.0
    weight[:, 3] = weight[3] = 0.0
    weight[0, 0, 0, 0] = 100.0
    codes, scales = codes_of(weight, axis)
    shape = [-1 if index == axis else 1 for index in range(4)]
    decoded = codes * scales.reshape(shape)
    assert codes.dtype == np.int8 and scales.dtype == decoded.dtype == np.float32
    assert (abs(decoded - weight) <= scales.reshape(shape) * 0.5001).all()
    again, same = codes_of(decoded, axis)
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(again * same.reshape(shape), decoded)


@pytest.mark.parametrize("name", ["elu_squeezenet", "enet"])
def test_rounded_weights_hardly_change_what_a_network_gives(name):
    torch.manual_seed(0)
    network = build_network(name, 4, {}).eval()
    image = torch.randn(1, 3, 32, 48)
    with torch.inference_mode():
        expected = network(image)
        round_weights(network)
        found = network(image)
    assert not torch.equal(found, expected)
    error = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert error < 0.05


# Export


def make_run(folder, name="elu_squeezenet"):
    """A run that learned nothing, with batch norms that do something."""
    folder.mkdir(parents=True)
    options = OPTIONS.get(name, {})
    write_recipe(folder, network=name, network_options=options).rename(folder / "recipe.yaml")
    network = fresh_network(name)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.running_mean, -0.1, 0.1)
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder


def fresh_network(name="elu_squeezenet"):
    torch.manual_seed(0)
    return build_network(name, 11, OPTIONS.get(name, {}))


def export(run, root, name, *options):
    command = [str(run), "--name", name, "--models", str(run.parent), "--root", str(root)]
    return training.export.main([*command, "--size", "45x60", *options])


@pytest.fixture(scope="module")
def folders(tmp_path_factory, root, scored_in_fp32):
    """A run, its plain model, and the one with weights stored as int8."""
    run = make_run(tmp_path_factory.mktemp("runs") / "run")
    assert export(run, root, "plain", "--temperature", "1.5") == 0
    options = ["--weights", "int8", "--variant", "float", "fp16", "--temperature", "1.5"]
    assert export(run, root, "stored", *options) == 0
    return run, run.parent / "plain", run.parent / "stored"


@pytest.fixture
def stored(folders, tmp_path):
    """A copy of the last, to which forms can be added."""
    return Path(shutil.copytree(folders[2], tmp_path / "stored"))


def maps(folder, backend="onnxruntime"):
    """Classes and confidences of the images, uint8 (images, 2, H, W)."""
    found = []
    with open_backend(backend, read_card(str(folder)), BackendOptions(device="cpu")) as opened:
        for image_nhwc in IMAGES:
            result = opened.run(image_nhwc, with_confidence=True)
            found.append(np.concatenate([result.class_map_nhw, result.confidence_nhw]))
    return np.stack(found)


def test_the_graph_takes_a_quarter_and_there_is_no_other_file_of_weights(folders):
    _, plain, stored = folders
    files = ["model.onnx", "model.yaml", "model_float.onnx", "model_fp16.onnx"]
    assert sorted(path.name for path in stored.iterdir()) == files
    card = read_card(str(stored))
    said = {artifact.kind: artifact.version.endswith("int8") for artifact in card.artifacts}
    assert said == {"onnx": True, "onnx_float": True, "onnx_fp16": False}
    sizes = [(folder / "model.onnx").stat().st_size for folder in (plain, stored)]
    assert 0.25 < sizes[1] / sizes[0] < 0.28
    assert card.temperature == 1.5 and card.confidence is not None


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_run_times_give_what_the_network_gives_with_the_rounded_weights(folders, backend):
    missing = BACKENDS[backend].unavailable()
    if missing:
        pytest.skip(f"NOT RUN: {missing}")
    run, plain, stored = folders
    network = fresh_network()
    load_weights(network, run / "weights.safetensors")
    round_weights(network)
    recipe = Recipe.read(run / "recipe.yaml")
    normalise = Normalise(recipe.mean_rgb, recipe.std_rgb)
    graph = DeployGraph(normalise, network, True, temperature=1.5).eval()
    with torch.inference_mode():
        expected = np.stack([torch.cat(graph(torch.from_numpy(item))).numpy() for item in IMAGES])
    found = maps(stored, backend)
    assert (found[:, 0] == expected[:, 0]).mean() >= 0.9995
    assert abs(found[:, 1].astype(int) - expected[:, 1]).max() <= 2
    assert len(np.unique(found[:, 0])) > 1
    assert (found != maps(plain)).any()  # rounding shows


def test_the_command_makes_the_plain_forms_of_it(folders, stored, monkeypatch, root, capsys):
    """To the bit: they hold the numbers that run times decode."""
    expected = maps(stored)
    command = [str(stored), "--dataset", "camvid", "--root", str(root), "--variant"]
    assert training.add_variants.main([*command, "weights"]) == 0
    torchs = maps(stored, "torch")
    assert training.add_variants.main([*command, "uint8", "float"]) == 0
    kinds = {item.kind: item for item in read_card(str(stored)).artifacts}
    assert sorted(kinds) == ["onnx", "onnx_float", "onnx_fp16", "weights"]
    for kind in ("onnx", "onnx_float"):
        assert not kinds[kind].version.endswith("int8")
        model = (stored / kinds[kind].file).read_bytes()
        assert b"DequantizeLinear" not in model
        decoded = decode_weights((folders[2] / kinds[kind].file).read_bytes())
        assert weights_of(model) == weights_of(decoded)
    np.testing.assert_array_equal(maps(stored), expected)
    assert (torchs[:, 0] == expected[:, 0]).mean() >= 0.9995
    assert abs(torchs[:, 1].astype(int) - expected[:, 1]).max() <= 2
    # Once more, from the file of weights.
    before = (stored / "model.onnx").read_bytes()
    assert training.add_variants.main([*command, "uint8", "weights"]) == 0
    assert (stored / "model.onnx").read_bytes() == before


def weights_of(model):
    """The network's, by name, as bytes."""
    found = onnx.load_from_string(model).graph.initializer
    weights = [item for item in found if item.name.startswith("network.")]
    return {item.name: numpy_helper.to_array(item).tobytes() for item in weights}


def test_pytorch_is_told_which_command_makes_its_weights(folders, capsys):
    stored = folders[2]
    told = f"python3 -m training.add_variants {stored} --variant weights"
    with pytest.raises(CardError, match=told):
        open_backend("torch", read_card(str(stored)), BackendOptions(device="cpu"))
    with pytest.raises(BackendError, match=told):
        choose(read_card(str(stored)), "torch", BackendOptions(device="cpu", precision="auto"))


def test_weights_without_batch_norms_are_no_start_for_training(stored, root):
    assert training.add_variants.main([str(stored), "--variant", "weights"]) == 0
    recipe = Recipe(
        network="elu_squeezenet",
        dataset="camvid",
        epochs=1,
        crop_size=(32, 32),
        start_weights=str(stored / "weights.safetensors"),
    )
    with pytest.raises(ValueError, match="weights of another network") as caught:
        load_start(fresh_network(), recipe, [])
    assert "\n" not in str(caught.value)


def test_a_network_whose_weights_cannot_be_read_back_is_not_stored_so(tmp_path, root, capsys):
    """The exporter gives slopes of PReLUs names of its own."""
    run = make_run(tmp_path / "runs" / "enet", "enet")
    assert export(run, root, "stored", "--weights", "int8") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "export them as float32" in error
    assert not (run.parent / "stored").exists()
