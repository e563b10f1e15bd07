"""Recipes, augmentation, training and export, on a tiny CamVid in a temporary folder."""

import csv
import dataclasses
from argparse import ArgumentTypeError
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.core import tiny

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.datasets import DATASETS, open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.importing.settings import image_size
from segmentation_node.model_card import read_card
from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.pipeline import Batch, Segmenter
from training import data, export
from training.augment import Augmentation
from training.card import DATA
from training.data import Split
from training.graphs import graph_of_run
from training.losses import enet_weights
from training.recipe import Recipe
from training.state import make_optimiser, make_schedule
from training.train import prepare_arithmetic
from training.trainer import Trainer

PROJECT = Path(__file__).resolve().parents[2]
RECIPES = sorted((PROJECT / "training" / "recipes").rglob("*.yaml"))
CPU = torch.device("cpu")
RECIPE = Recipe(
    network="elu_squeezenet",
    dataset="camvid",
    epochs=2,
    batch_size=2,
    crop_size=(32, 48),
    learning_rate=2e-3,
    ema_decay=0.5,
    evaluate_every=2,
)

pytestmark = pytest.mark.usefixtures("one_thread", "scored_in_fp32")


def scene(seed):
    """Blocks of three classes in their colours, with some void: image and label ids."""
    rng = np.random.RandomState(seed)
    classes = np.array([0, 3, 8], np.uint8)[rng.randint(0, 3, (4, 6))].repeat(12, 0).repeat(12, 1)
    image = np.clip(tiny.paint(classes) + rng.normal(0, 8, (48, 72, 3)), 0, 255).astype(np.uint8)
    classes[:4] = tiny.VOID
    return image, classes


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("camvid")
    for split, seeds in (("train", range(12)), ("val", range(100, 102))):
        samples = {f"{seed}.png": scene(seed) for seed in seeds}
        tiny.write_camvid(folder, split, samples)
    return str(folder)


def train(root, output):
    splits = (Split(open_dataset("camvid", root, split), CPU) for split in ("train", "val"))
    trainer = Trainer(RECIPE, *splits, output)
    trainer.run()
    return trainer


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """The folder that two epochs leave behind."""
    return train(root, tmp_path_factory.mktemp("runs") / "tiny").output


def losses(run):
    with open(run / "log.csv", newline="") as log:
        return [float(row["loss"]) for row in csv.DictReader(log)]


# Recipes


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_shipped_recipe_names_what_exists(path):
    recipe = Recipe.read(path)
    assert recipe.network in NETWORKS
    assert recipe.dataset in DATASETS and recipe.dataset in DATA
    build_network(recipe.network, 3, recipe.network_options)


def test_there_are_recipes():
    assert RECIPES


def refused(tmp_path, change):
    values = yaml.safe_load(RECIPES[0].read_text())
    change(values)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError) as caught:
        Recipe.read(tmp_path / "recipe.yaml")
    return str(caught.value)


def test_an_unknown_key_is_refused(tmp_path):
    message = refused(tmp_path, lambda values: values.update(learning_rte=1))
    assert "['learning_rte']" in message and "'learning_rate'" in message


def test_a_missing_key_is_named(tmp_path):
    assert "crop_size" in refused(tmp_path, lambda values: values.pop("crop_size"))


@pytest.mark.parametrize(
    "key, value",
    [
        ("epochs", 0),
        ("batch_size", 0),
        ("scale_range", [2.0, 1.0]),
        ("loss_stride", 0),
        ("class_weight_offset", 0.98),
        ("momentum", 1.0),
        ("class_weights", [1.0, -0.1]),
        ("class_weights", [0.0, 0.0]),
        ("class_weights", []),
        ("auxiliary_heads", {"fires_at_8": 0.4, "fires_at_16": -0.4}),
        ("distillation", {"teacher": "runs/one", "weight": -1.0}),
    ],
)
def test_a_value_that_cannot_be_is_refused(tmp_path, key, value):
    assert key in refused(tmp_path, lambda values: values.update({key: value}))


@pytest.mark.parametrize("schedule", ["one_cycle", "poly", "constant"])
@pytest.mark.parametrize("total", [1, 2, 10, 30])
def test_a_schedule_lasts_to_the_last_step_whatever_the_share_of_its_warm_up(schedule, total):
    for share in (0.0, 0.05, 0.1, 0.5, 0.95, 0.999):
        recipe = dataclasses.replace(RECIPE, schedule=schedule, warmup_share=share)
        optimiser = make_optimiser(recipe, torch.nn.Linear(1, 1))
        following, rates = make_schedule(recipe, optimiser, total), []
        for _ in range(total):
            rates += following.get_last_lr()
            optimiser.step()
            following.step()
        assert 0 < min(rates) and max(rates) <= 2e-3 * (1 + 1e-9)
        if schedule == "one_cycle" and share * total == 1:
            assert rates[0] == max(rates)


def test_values_at_the_edge_of_what_can_be_are_taken():
    edge = {"class_weight_offset": 1.0, "momentum": 0.0, "auxiliary_heads": {"fires_at_8": 0.0}}
    assert dataclasses.replace(RECIPE, class_weights=(0.0, 1.0), **edge).momentum == 0
    weights = enet_weights(torch.tensor([[1, 9, 0]]), 1.0)
    expected = np.array([1 / np.log(1.1), 1 / np.log(1.9), 0])
    assert np.allclose(weights, expected / expected[:2].mean())


# Augmentation


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_zoom_crop_and_jitter_only_a_flip_is_left():
    images = torch.randint(0, 256, (16, 20, 30, 3), dtype=torch.uint8)
    labels = torch.randint(0, 12, (16, 20, 30), dtype=torch.uint8)
    found, found_labels = Augmentation((20, 30), (1.0, 1.0), 0.0)(images, labels, generator())
    assert found.dtype == torch.float32 and found_labels.dtype == torch.int64
    flips = 0
    for image, label, warped, warped_label in zip(images, labels, found, found_labels):
        flipped = not torch.equal(warped_label, label.long())
        flips += flipped
        expected = image.flip(1) if flipped else image
        torch.testing.assert_close(warped, expected.permute(2, 0, 1).float(), rtol=0, atol=0.02)
        assert torch.equal(warped_label, (label.flip(1) if flipped else label).long())
    assert 0 < flips < 16


@pytest.mark.parametrize("scale_range", [(0.4, 0.7), (0.6, 1.8), (1.5, 3.0)])
def test_labels_move_with_the_image(scale_range):
    """The image's colour is the position (column, row, always 255), and so is the label."""
    height, width = 80, 120
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    images = torch.stack([x, y, torch.full_like(x, 255)], dim=2).to(torch.uint8)
    augment = Augmentation((60, 90), scale_range, 0.0)
    for channel, position in ((0, x), (1, y)):
        batch = images.expand(8, -1, -1, -1), position.to(torch.uint8).expand(8, -1, -1)
        warped, labels = augment(*batch, generator(5))
        inside, outside = warped[:, 2] > 254.9, warped[:, 2] < 0.1
        assert inside.any()
        assert (warped[:, channel] - labels)[inside].abs().max() <= 0.51
        assert (labels[outside] == 255).all()
        assert outside.any() == (scale_range[0] < 0.75)


def test_jitter_changes_light_but_not_labels():
    images = torch.randint(0, 256, (8, 20, 30, 3), dtype=torch.uint8)
    labels = torch.randint(0, 12, (8, 20, 30), dtype=torch.uint8)
    plain = Augmentation((20, 30), (1.0, 1.0), 0.0)(images, labels, generator())
    jittered = Augmentation((20, 30), (1.0, 1.0), 0.3)(images, labels, generator())
    assert torch.equal(plain[1], jittered[1])
    assert jittered[0].min() >= 0 and jittered[0].max() <= 255
    changed = (plain[0] - jittered[0]).abs().flatten(1).mean(1)
    assert (changed > 1.0).sum() >= 6


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_positions_in_an_image_are_never_rounded_to_tf32(precision, monkeypatch):
    """affine_grid multiplies matrices: 10 bits of a position are a tenth of a pixel and more."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark
    prepare_arithmetic(dataclasses.replace(RECIPE, precision=precision), None)
    assert torch.get_float32_matmul_precision() == "highest"
    assert torch.backends.cudnn.allow_tf32 == (precision != "fp32")
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.benchmark = before


@pytest.mark.parametrize("host, device, room", [(40, 20, 6), (10, 20, 3)])
def test_images_for_a_gpu_need_room_on_the_host_too(host, device, room, monkeypatch):
    """There they are decoded and stacked."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (device, 100))
    monkeypatch.setattr(data.os, "sysconf", {"SC_PHYS_PAGES": host, "SC_PAGE_SIZE": 1}.__getitem__)
    assert data._free_bytes(torch.device("cuda")) == pytest.approx(room)


def test_a_seed_fixes_the_augmentation():
    images = torch.randint(0, 256, (4, 20, 30, 3), dtype=torch.uint8)
    labels = torch.zeros(4, 20, 30, dtype=torch.uint8)
    augment = Augmentation((16, 24), (0.5, 2.0), 0.3)
    first, again, other = (augment(images, labels, generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


# Training


def test_class_weights_are_enets_with_mean_one(root):
    split = Split(open_dataset("camvid", root, "train"), CPU)
    weights = enet_weights(split.label_counts(), 1.02).tolist()
    counts = np.bincount(split.labels.flatten().numpy(), minlength=256)[:11]
    expected = [1 / np.log(1.02 + count / counts.sum()) if count else 0.0 for count in counts]
    expected /= np.mean([weight for weight in expected if weight])
    assert weights == pytest.approx(expected.tolist(), rel=1e-5)


def test_two_epochs_lower_the_loss_and_leave_their_files(run):
    first, second = losses(run)
    assert second < 0.95 * first
    assert {"log.csv", "recipe.yaml", "weights.safetensors"} <= {
        path.name for path in run.iterdir()
    }
    network = build_network("elu_squeezenet", 11, {})
    network.load_state_dict(load_file(run / "weights.safetensors"))
    assert Recipe.read(run / "recipe.yaml") == RECIPE


def test_the_same_recipe_gives_the_same_losses(run, root, tmp_path):
    train(root, tmp_path / "again")
    assert losses(tmp_path / "again") == pytest.approx(losses(run), rel=1e-3)


def test_a_loss_that_explodes_stops_the_run(root, tmp_path):
    split = Split(open_dataset("camvid", root, "train"), CPU)
    trainer = Trainer(RECIPE, split, split, tmp_path)
    with torch.no_grad():
        next(trainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="learning_rate"):
        trainer.run()


# Export


@pytest.fixture(scope="module")
def exported(run, root, tmp_path_factory):
    models = tmp_path_factory.mktemp("models")
    return export.export_run(run, "tiny_camvid", models, root, [(45, 70)], [1])


def test_the_exported_card_describes_what_lies_beside_it(exported):
    card = read_card(str(exported))
    assert card.name == "tiny_camvid" and card.label_set == "camvid11"
    assert card.network.parameters == 1_074_927
    assert card.input_size == (45, 70)
    names = {"model.yaml"} | {artifact.file for artifact in card.artifacts}
    assert {path.name for path in exported.iterdir()} == names
    for kind in ("onnx", "weights"):
        assert card.artifact_path(kind)


def test_the_exported_graph_is_static_opset_13(exported):
    model = onnx.load(exported / "model.onnx")
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
    shapes = [
        [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, 45, 70, 3], [1, 45, 70], [1, 45, 70]]
    constants = {item.name for item in model.graph.initializer}
    for node in model.graph.node:
        assert node.op_type not in ("Constant", "Shape", "Loop", "If")
        assert not set(node.input) <= constants, "what depends on constants alone is one"


def test_the_exported_accuracy_is_what_evaluation_finds(exported, root):
    card = read_card(str(exported))
    with open_backend("torch", card, BackendOptions(device="cpu")) as backend:
        run = evaluate_dataset(Segmenter(Batch(backend)), open_dataset("camvid", root, "val"))
    result = run.accuracy
    accuracy = card.accuracy[0]
    assert accuracy.precision in ("", "fp32")
    assert (accuracy.dataset, accuracy.split, accuracy.frames) == ("camvid", "val", 2)
    assert accuracy.mean_iou == pytest.approx(result.matrix.mean_iou(), abs=2e-3)
    assert accuracy.global_accuracy == pytest.approx(result.matrix.global_accuracy(), abs=2e-3)


def test_a_batch_can_be_exported(run, root, tmp_path):
    folder = export.export_run(run, "pair", tmp_path, root, [(32, 48)], [2])
    with open_backend("onnxruntime", read_card(str(folder)), BackendOptions()) as backend:
        assert backend.input_shape == (2, 32, 48, 3)


def test_without_parity_nothing_is_exported(run, root, tmp_path, monkeypatch):
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(export, "agreement", lambda *_, **__: 0.9998)
    with pytest.raises(RuntimeError, match="nothing was exported"):
        export.export_run(run, "kept", tmp_path, root, [(32, 48)], [1])
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert not list((tmp_path / "kept").iterdir())


def test_an_untrained_network_agrees_with_its_export_on_street_frames(tmp_path):
    """Random weights give close scores: the hardest case for equal classes."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    street = open_dataset("street", "", "val")
    recipe = dataclasses.replace(RECIPE, dataset="street")
    network = build_network(recipe.network, len(street.label_set), {})
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    recipe.write(tmp_path / "recipe.yaml")
    graph = graph_of_run(tmp_path, street.label_set)
    export.export_onnx(graph, (180, 320), 1, "cityscapes19", tmp_path / "model.onnx")
    share = export.agreement(graph, tmp_path / "model.onnx", [street[0], street[6]], 2)
    assert share >= export.LEAST_AGREEMENT


@pytest.mark.parametrize("text", ["360", "x", "360x480x3", "axb"])
def test_a_size_that_is_not_hxw_is_refused(text):
    with pytest.raises(ArgumentTypeError, match="HxW"):
        image_size(text)


def test_a_size_is_height_by_width():
    assert image_size("360x480") == (360, 480)
