"""The confidence's temperature: every form of the graph against NumPy, and what is fitted."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.torch import save_file
from support import small_training
from support.core.tiny import assert_one_line
from support.foreign_networks import CLASSES, Network, labels_file, pictures

import training.add_variants
import training.export
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.errors import BackendError, CardError, DatasetError, OutputError
from segmentation_node.evaluation import temperature as fitting
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.commands import confidence as command
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.importing.__main__ import main as import_network
from segmentation_node.importing.temperature import open_scores, set_temperature
from segmentation_node.labels import parse_label_set
from segmentation_node.model_card import read_card, sha256_of, verified_path
from segmentation_node.networks import NETWORKS
from segmentation_node.networks.deploy import DeployGraph, Normalise
from segmentation_node.pipeline import open_segmenter

MEAN, STD = 128.0, 64.0
LABELS = parse_label_set(
    {"name": "blocks", "classes": [{"name": name} for name in "abcd"]}, "the test"
)
T = 3.0
GRAPHS = {"uint8": "fp32", "float": "", "fp16": "", "int8": "int8"}
"""By variant the precision under which a CPU backend loads it; empty where none does."""


class Small(torch.nn.Module):
    """Four convolutions, of which int8 takes the two between."""

    def __init__(self, classes):
        super().__init__()
        convolutions = [torch.nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (8, 8))]
        layers = [layer for one in convolutions for layer in (one, torch.nn.ELU())]
        self.layers = torch.nn.Sequential(*layers, torch.nn.Conv2d(8, classes, 1))

    def forward(self, images):
        return self.layers(images)


class Blocks(Dataset):
    """The images that the network knows by heart, with a third of the labels wrong."""

    label_set = LABELS
    splits = ("train", "val")

    def __init__(self, split="val"):
        super().__init__("", split)
        images, labels = small_training.coloured_blocks()
        self.images = (images.permute(0, 2, 3, 1) * STD + MEAN).clamp(0, 255).byte().numpy()
        self.labels = labels.numpy().astype(np.uint8)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        random = np.random.RandomState(index)
        truth = self.labels[index % 2].copy()
        noise = random.rand(*truth.shape)
        truth[noise < 1 / 3] = random.randint(0, 4, int((noise < 1 / 3).sum()))
        truth[noise > 0.95] = 255
        return Frame(str(index), self.images[index % 2], truth)


@pytest.fixture(scope="module", autouse=True)
def network():
    """Has learned the blocks; for as long as these tests run it is one of the package's."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for each other longer than they compute
    try:
        learned = small_training.learn(Small(4), *small_training.coloured_blocks(), 80, 2e-2)
    finally:
        torch.set_num_threads(threads)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(NETWORKS, "small", Small)
        yield learned


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, network):
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    recipe = {"network": "small", "dataset": "camvid", "epochs": 1, "crop_size": [32, 32]}
    recipe.update(mean_rgb=[MEAN] * 3, std_rgb=[STD] * 3)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder


@pytest.fixture(scope="module")
def fitted(run_folder, scored_in_fp32):
    """A model folder with every form of the graph, as ``training.export`` makes it."""
    models = run_folder.parent / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.export, "open_data", lambda *_: Blocks())
        words = [str(run_folder), "--models", str(models), "--name", "fitted"]
        words += ["--size", "32x48", "--size", "48x72"]
        options = ["--variant", *GRAPHS, "--temperature", "fit"]
        assert training.export.main([*words, *options]) == 0
    return models / "fitted"


@pytest.fixture(scope="module")
def with_temperature(fitted):
    """The same model with another temperature."""
    folders = {}
    for temperature in (1.0, T):
        folders[temperature] = Path(shutil.copytree(fitted, fitted.parent / str(temperature)))
        set_temperature(folders[temperature], temperature)
    return folders


@pytest.fixture
def folder(with_temperature, tmp_path):
    """A copy of the model without a temperature."""
    return Path(shutil.copytree(with_temperature[1.0], tmp_path / "model"))


def logits_of(network, image_hwc):
    """The network's own, in float64: (4, H, W)."""
    image = torch.from_numpy((image_hwc.astype(np.float32) - MEAN) / STD).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return network(image)[0].double().numpy()


def expected_confidence(network, image_hwc, temperature):
    """softmax(logits / T) of the class chosen, 0-255."""
    return softmax(logits_of(network, image_hwc) / temperature).max(axis=0) * 255.0


def softmax(scores):
    shares = np.exp(scores - scores.max(axis=0))
    return shares / shares.sum(axis=0)


def maps_of(folder, variant, image_hwc):
    """Class map and confidence of a form of the graph, on ONNX Runtime."""
    path = folder / training.export.ARTIFACTS[variant][0]
    session = training.export.import_onnxruntime().InferenceSession(str(path))
    dtype = training.export.ARRAY_DTYPES[session.get_inputs()[0].type]
    return session.run(["class_map", "confidence"], {"image": image_hwc[None].astype(dtype)})


@pytest.mark.parametrize("variant", GRAPHS)
def test_every_form_of_the_graph_has_it_and_keeps_its_classes_to_the_bit(
    network, with_temperature, variant
):
    for frame in (Blocks()[0], Blocks()[1]):
        before, sure = maps_of(with_temperature[1.0], variant, frame.image_hwc)
        after, found = maps_of(with_temperature[T], variant, frame.image_hwc)
        assert np.array_equal(before, after)
        for temperature, confidence in ((1.0, sure), (T, found)):
            expected = expected_confidence(network, frame.image_hwc, temperature)
            difference = np.abs(confidence[0].astype(float) - expected)
            # Half precision and int8 compute other logits to begin with.
            most = {"fp16": 6.0, "int8": 60.0}.get(variant, 0.51)
            assert np.quantile(difference, 0.99) <= most
        assert np.mean(sure) - np.mean(found) > 5


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch"])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_backends_agree_on_it(network, with_temperature, backend, precision):
    if BACKENDS[backend].unavailable() or precision not in BACKENDS[backend].precisions:
        pytest.skip(f"NOT RUN: {BACKENDS[backend].unavailable() or precision}")
    image = Blocks()[0].image_hwc
    maps = {}
    for temperature, folder in with_temperature.items():
        options = BackendOptions(device="cpu", precision=precision)
        with open_backend(backend, read_card(str(folder)), options) as opened:
            found = opened.run(image[None].copy(), with_confidence=True)
            maps[temperature] = found.class_map_nhw[0].copy(), found.confidence_nhw[0].astype(float)
            alone = opened.run(image[None].copy()).class_map_nhw[0]
            assert np.array_equal(alone, maps[temperature][0])
    assert np.array_equal(maps[1.0][0], maps[T][0])
    most = 60.0 if precision == "int8" else 1.01
    for temperature, (_, confidence) in maps.items():
        difference = np.abs(confidence - expected_confidence(network, image, temperature))
        assert np.quantile(difference, 0.99) <= most
    assert np.mean(maps[1.0][1]) > np.mean(maps[T][1]) + 5


def test_a_temperature_can_be_changed_and_taken_back(folder):
    before = {path.name: path.read_bytes() for path in folder.glob("*.onnx")}
    nodes = {name: len(onnx.load(folder / name).graph.node) for name in before}
    assert len(nodes) == 2 * len(GRAPHS)
    for temperature in (2.5, T, 1.0):
        set_temperature(folder, temperature)
        card = read_card(str(folder))
        assert card.temperature == temperature
        for artifact in card.artifacts:
            assert verified_path(str(folder), artifact)
        for name, count in nodes.items():
            model = onnx.load(folder / name)
            assert len(model.graph.node) == count + (temperature != 1.0)
            said = {item.key: item.value for item in model.metadata_props}.get("temperature")
            assert said == (None if temperature == 1.0 else f"{temperature:g}")
    for name, content in before.items():
        assert onnx.load(folder / name) == onnx.ModelProto.FromString(content)


def test_a_temperature_that_cannot_be_written_whole_changes_nothing(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / ".model_float.onnx.partial").mkdir()
    with pytest.raises(OutputError, match="model_float.onnx"):
        set_temperature(folder, 2.5)
    (folder / ".model_float.onnx.partial").rmdir()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_all_files_are_whole_before_the_first_takes_its_place(folder, monkeypatch):
    """So that a kill finds the old model or the new one, but for the moment of the renames."""
    taken = []

    def replace(partial, place, replace=os.replace):
        if not taken:
            card = yaml.safe_load((folder / ".model.yaml.partial").read_text())
            for item in card["artifacts"]:
                made = folder / f".{item['file']}.partial"
                assert not made.exists() or sha256_of(str(made)) == item["sha256"]
            taken.extend(path.name for path in folder.glob(".*.partial"))
        replace(partial, place)

    monkeypatch.setattr("segmentation_node.files.os.replace", replace)
    set_temperature(folder, 2.5)
    graphs = [f".{path.name}.partial" for path in folder.glob("*.onnx")]
    assert sorted(taken) == sorted([*graphs, ".model.yaml.partial"])
    for artifact in read_card(str(folder)).artifacts:
        assert verified_path(str(folder), artifact)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_graph_of_another_temperature_than_the_cards_is_refused(folder, backend):
    if BACKENDS[backend].unavailable():
        pytest.skip(f"NOT RUN: {BACKENDS[backend].unavailable()}")
    content = yaml.safe_load((folder / "model.yaml").read_text())
    content["confidence"] = {"temperature": 2.0}
    (folder / "model.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(BackendError) as caught:
        open_backend(backend, read_card(str(folder)), BackendOptions())
    assert_one_line(caught, "the graph's temperature is 1, but the model card says 2")


def test_an_added_form_has_the_temperature_of_the_others(with_temperature, tmp_path, monkeypatch):
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: Blocks())
    folder = Path(shutil.copytree(with_temperature[T], tmp_path / "model"))
    expected = maps_of(folder, "fp16", Blocks()[0].image_hwc)
    (folder / "model_fp16.onnx").unlink()
    assert training.add_variants.main([str(folder), "--variant", "fp16"]) == 0
    for one, other in zip(maps_of(folder, "fp16", Blocks()[0].image_hwc), expected, strict=True):
        assert np.array_equal(one, other)
    said = {item.key: item.value for item in onnx.load(folder / "model_fp16.onnx").metadata_props}
    assert said["temperature"] == f"{T:g}"


def pixels_of(scores, temperature, seed):
    """Pixels whose labels are drawn with the probabilities softmax(scores / temperature)."""
    random = np.random.RandomState(seed)
    shares = softmax(scores.T / temperature).T
    channels = (shares.cumsum(axis=1) < random.rand(len(scores), 1)).sum(axis=1)
    differences = scores - scores.max(axis=1, keepdims=True)
    return fitting.Pixels(differences.astype(np.float32), np.minimum(channels, 4))


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.6])
def test_the_fitted_temperature_is_the_likeliest(temperature):
    scores = np.random.RandomState(1).normal(0, 3, (40000, 5))
    pixels = pixels_of(scores, temperature, seed=2)
    found = fitting.best_temperature(pixels)
    assert found == pytest.approx(temperature, rel=0.05)
    tried = np.geomspace(found / 1.05, found * 1.05, 201)
    losses = [
        -np.log(softmax(scores.T / t)[pixels.channels, np.arange(len(scores))]).mean()
        for t in tried
    ]
    assert tried[np.argmin(losses)] == pytest.approx(found, rel=1e-3)
    assert fitting.expected_error(pixels, found) < 0.02
    if temperature != 1.0:
        assert fitting.expected_error(pixels, 1.0) > 0.05


@pytest.mark.parametrize("labels, said", [(0, "is always right"), (4, "knows nothing")])
def test_a_temperature_out_of_range_is_one_line(labels, said):
    scores = np.tile(np.array([0.5, 0, 0, 0, 0]), (100, 1)) - 0.5
    with pytest.raises(DatasetError) as caught:
        fitting.best_temperature(fitting.Pixels(scores.astype(np.float32), np.full(100, labels)))
    assert_one_line(caught, "no temperature from 0.0625 to 16", said)


def expected_error_of(folder):
    with open_segmenter(read_card(str(folder)), "onnxruntime") as segmenter:
        run = evaluate_dataset(segmenter, Blocks(), with_calibration=True)
    return run.as_json()["calibration"]["expected_error"]


def test_the_command_fits_or_takes_a_number_and_a_later_one_leaves_it(folder, monkeypatch, capsys):
    monkeypatch.setattr(command, "open_dataset", lambda *_: Blocks())
    before = expected_error_of(folder)
    words = ["confidence", "--model", str(folder), "--dataset", "camvid"]
    assert main([*words, "--temperature", "fit"]) == 0
    said = capsys.readouterr().out
    after, card = expected_error_of(folder), read_card(str(folder))
    assert card.temperature > 1.5 and f"temperature {card.temperature:g}: " in said
    assert f"{100 * before:.2f} % without" in said and f"{100 * after:.2f} % with it" in said
    assert main(words) == 0
    assert read_card(str(folder)) == card
    assert main([*words, "--temperature", "2"]) == 0
    assert read_card(str(folder)).temperature == 2.0
    assert read_card(str(folder)).confidence.mean != card.confidence.mean
    # What cannot be measured leaves no figure of another temperature behind.
    assert main([*words, "--temperature", "3", "--backend", "torch", "--device", "cuda:9"]) == 1
    assert read_card(str(folder)).temperature == 3.0
    assert read_card(str(folder)).confidence is None


def test_what_is_fitted_is_the_same_whatever_the_temperature_before(folder, monkeypatch):
    first = fitting.fit_temperature(read_card(str(folder)), Blocks())
    set_temperature(folder, 3.0)
    assert fitting.fit_temperature(read_card(str(folder)), Blocks()) == first


def test_export_fits_too(fitted, folder):
    card, without = read_card(str(fitted)), read_card(str(folder))
    assert card.temperature == fitting.fit_temperature(without, Blocks()).temperature
    before, after = expected_error_of(folder), expected_error_of(fitted)
    assert before > 0.2 and after < before / 2
    assert {item.artifact for item in card.accuracy} == {"onnx", "onnx_int8"}


def test_halves_are_drives_where_there_are_drives():
    frames = [fitting.Pixels(np.zeros((1, 2), np.float32), np.array([i])) for i in range(6)]
    for drives, cut in ((["a"] * 5 + ["b"], 5), ([""] * 6, 3), (list("aabbbc"), 2)):
        first, second = fitting._halves(frames, drives)
        assert [len(first), len(second)] == [cut, 6 - cut]


def test_scores_are_the_networks_with_the_channels_of_trained_classes(network, tmp_path):
    graph = DeployGraph(Normalise((MEAN,) * 3, (STD,) * 3), network, True, trained_classes=[1, 3])
    path = tmp_path / "model.onnx"
    training.export.export_onnx(graph.eval(), (32, 48), 1, "blocks", path)

    class Card:
        name, labels = "a", LABELS
        artifact_path = staticmethod(lambda kind: str(path))

    scores = open_scores(Card)
    assert scores.ids == [1, 3]
    image = Blocks()[0].image_hwc
    shares = np.exp(scores.run(image)).sum(axis=0)
    logits = logits_of(network, image)[[1, 3]]
    assert np.allclose(1 / shares, softmax(logits).max(axis=0), atol=1e-4)


def imported(tmp_path, activation):
    network = Network()
    scores = network.add(activation, [network.scores]) if activation else network.scores
    network.gives(scores).save(tmp_path / "net.onnx")
    images = pictures(tmp_path / "pictures")
    words = [str(tmp_path / "net.onnx"), "--output", str(tmp_path / "model"), "--scale", "0.004"]
    labels = labels_file(tmp_path / "labels.yaml", CLASSES)
    assert import_network([*words, "--labels", str(labels), "--images", str(images)]) == 0
    return tmp_path / "model"


def test_an_imported_network_of_scores_takes_one(tmp_path):
    folder = imported(tmp_path, "")
    image = np.random.RandomState(0).randint(0, 256, (24, 40, 3)).astype(np.uint8)
    scores = open_scores(read_card(str(folder)))
    expected = softmax(scores.run(image).astype(float) / T).max(axis=0) * 255
    before = maps_of(folder, "uint8", image)[0]
    set_temperature(folder, T)
    assert read_card(str(folder)).offers("onnx_fp16")
    for variant, most in (("uint8", 0.51), ("float", 0.51), ("fp16", 3)):
        found = maps_of(folder, variant, image)[1]
        assert np.abs(found[0] - expected).max() <= most
    assert np.array_equal(before, maps_of(folder, "uint8", image)[0])


def test_an_imported_network_with_a_confidence_of_its_own_takes_none(tmp_path):
    folder = imported(tmp_path, "Sigmoid")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(CardError) as caught:
        set_temperature(folder, T)
    assert_one_line(caught, "model model: its confidence is no softmax")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_labels_of_other_classes_are_refused(folder):
    other = Blocks()
    other.label_set = parse_label_set(
        {"name": "others", "classes": [{"name": name} for name in "wxyz"]}, "the test"
    )
    with pytest.raises(DatasetError) as caught:
        fitting.fit_temperature(read_card(str(folder)), other)
    assert_one_line(caught, "are blocks, the data's others")
