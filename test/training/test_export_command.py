"""``training.export`` on a small run: files, card, and the check before anything appears."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.core import tiny
from support.small_exports import TwoFrames, export, in_fp32, kinds_of

import training.add_variants
import training.card
import training.export
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.evaluation.__main__ import main as evaluation
from segmentation_node.evaluation.commands import dataset as dataset_command
from segmentation_node.evaluation.datasets import DATASETS
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.files import check_folder
from segmentation_node.model_card import read_card
from segmentation_node.networks import build_network
from segmentation_node.pipeline import open_segmenter
from training.recipe import Recipe


def test_all_variants_are_on_the_card(run, monkeypatch, capsys):
    folder = export(run, "--variant", "fp16", "float", "--batch", "2", monkeypatch=monkeypatch)
    card = read_card(str(folder))
    assert [artifact.file for artifact in card.artifacts] == [
        "model.onnx",
        "model_float.onnx",
        "model_fp16.onnx",
        "weights.safetensors",
    ]
    for artifact in card.artifacts:
        assert card.artifact_path(artifact.kind) == str(folder / artifact.file)
    network = build_network("elu_squeezenet", 11, {"batch_norm": True})
    assert card.network.parameters == sum(value.numel() for value in network.parameters())
    assert capsys.readouterr().out.count("torch and ONNX Runtime agree on") == 3
    with open_backend("onnxruntime", card, BackendOptions()) as backend:
        assert backend.input_shape == (2, 45, 60, 3)


def test_an_export_replaces_an_export_and_uint8_alone_is_the_default(run, exported, monkeypatch):
    assert kinds_of(exported) == ["onnx", "onnx_float", "weights"]
    folder = export(run, monkeypatch=monkeypatch)
    assert folder == exported and kinds_of(folder) == ["onnx", "weights"]
    assert not (folder / "model_float.onnx").exists()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]
    weights = read_card(str(folder)).weights
    assert weights.data.endswith("480x360, split train; no pre-training")
    assert weights.provenance == f"python -m training.train {run / 'recipe.yaml'}"


@pytest.mark.parametrize("key", ["trunk", "start_weights"])
def test_the_card_says_what_the_weights_started_from(run, key):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, key: "old/weights.safetensors"}))
    found = training.card.started_from(Recipe.read(run / "recipe.yaml"))
    told = "the pre-trained trunk " if key == "trunk" else ""
    assert found == f"started from {told}old/weights.safetensors"


def test_the_card_goes_back_to_the_first_weights(run, exported, monkeypatch):
    """Of runs by their recipes, of a model by its card."""
    monkeypatch.chdir(run.parent)
    base = Recipe.read(run / "recipe.yaml")
    for name, changes in {
        "second": {"start_weights": "first/weights.safetensors"},
        "first": {"trunk": "zoo/trunk.pth"},
        "tuned": {"start_weights": f"{exported}/weights.safetensors"},
    }.items():
        Path(name).mkdir()
        replace(base, **changes).write(Path(name, "recipe.yaml"))
    third = replace(base, start_weights="second/weights.safetensors")
    assert training.card.started_from(third) == (
        "started from second/weights.safetensors, which started from first/weights.safetensors, "
        "which started from the pre-trained trunk zoo/trunk.pth"
    )
    tuned = replace(base, start_weights="tuned/weights.safetensors")
    assert training.card.started_from(tuned).endswith(
        f"which started from {exported}/weights.safetensors (CamVid in SegNet's layout, images of "
        "480x360, split train; no pre-training)"
    )


def test_no_temperature_is_fitted_on_what_was_trained_on(run, capsys):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "val_split": ""}))
    models = run.parent / "models"
    options = ["--name", "small", "--models", str(models), "--size", "45x60"]
    assert training.export.main([str(run), *options, "--temperature", "fit"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "has no val_split" in said and "--temperature T" in said
    assert not models.exists()


def test_the_card_names_the_recipe_that_is_there(run, monkeypatch):
    monkeypatch.setattr(training.card, "PROJECT", run.parent)
    shipped = run.parent / "training" / "recipes" / "small.yaml"
    shipped.parent.mkdir(parents=True)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    for epochs, expected in ((2, run / "recipe.yaml"), (1, "training/recipes/small.yaml")):
        shipped.write_text(yaml.safe_dump({**recipe, "epochs": epochs, "seed": 0}))
        found = training.card.train_command(run, Recipe.read(run / "recipe.yaml"))
        assert found == f"python -m training.train {expected}"


def test_a_split_without_labels_gives_no_figures(run, monkeypatch, capsys):
    class Unlabelled(TwoFrames):
        def __getitem__(self, index):
            frame = super().__getitem__(index)
            return replace(frame, truth_hw=np.full_like(frame.truth_hw, 255))

    monkeypatch.setattr(training.export, "open_data", lambda *_: Unlabelled())
    assert not export(run, monkeypatch=monkeypatch).exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "camvid val: no pixel is labelled" in error


def test_the_card_carries_the_licences_of_all_that_it_started_and_learned_from(
    run, exported, monkeypatch
):
    """Kitti's by way of two runs that go round in a circle, a folder's by a card, two by none."""
    monkeypatch.chdir(run.parent)
    base = yaml.safe_load((run / "recipe.yaml").read_text())

    def write(folder, **changes):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump({**base, **changes}))

    teachers = ["carded", "old", "pretrained"]
    write(run, start_weights="second/weights.safetensors", distillation={"teacher": teachers})
    write("old", class_mix=0.5)
    write("pretrained", trunk="zoo/trunk.pth")
    write("second", start_weights="first/best.safetensors")
    write(
        "first",
        dataset="kitti_step",
        start_weights="second/weights.safetensors",
        distillation={"teacher": "gone"},
    )
    shutil.copytree(exported, "carded")
    card = yaml.safe_load(Path("carded/model.yaml").read_text())
    card["weights"]["licence"] = "ask Ann"
    Path("carded/model.yaml").write_text(yaml.safe_dump(card))
    assert read_card(str(export(run, monkeypatch=monkeypatch))).weights.licence == (
        "research use only, as CamVid's own terms (University of Cambridge) ask; of what it "
        "started or learned from: ask Ann; unknown for old, whose recipe.yaml is of another "
        "version; CC BY-NC-SA 3.0, as KITTI's own terms ask; unknown for zoo/trunk.pth, beside "
        "which is neither model.yaml nor recipe.yaml; unknown for gone/weights.safetensors, "
        "beside which is neither model.yaml nor recipe.yaml"
    )


def test_nothing_is_exported_without_agreement(run, monkeypatch, capsys):
    monkeypatch.setattr(training.export, "agreement", lambda *_: 0.9949)
    export(run, monkeypatch=monkeypatch)
    assert "error: model.onnx: they must agree on 99.99%" in capsys.readouterr().err
    assert list((run.parent.parent / "models").iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "../esc", "/tmp/esc", "notes", "more"])
def test_no_name_leads_to_what_an_export_did_not_write(run, name, monkeypatch, capsys):
    models = run.parent.parent / "models"
    (models / "notes").mkdir(parents=True)
    (models / "notes" / "notes.txt").write_text("mine")
    (models / "more").mkdir()
    (models / "more" / "model.yaml").write_text("label_set: camvid_11")
    (models / "more" / "more.txt").write_text("mine")
    before = set(run.parent.parent.rglob("*"))
    command = ["training.export", str(run), "--name", name, "--models", str(models)]
    monkeypatch.setattr("sys.argv", [*command, "--size", "45x60"])
    assert training.export.main() == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert set(run.parent.parent.rglob("*")) == before


class ManyFrames(TwoFrames):
    """Counts which of its frames are taken."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def __len__(self):
        return 45

    def __getitem__(self, index):
        self.taken.append(index)
        return super().__getitem__(index % 2)


def test_forms_are_compared_on_frames_of_all_drives_of_a_split():
    """Its first ones are of one drive, at dusk in CamVid's train, and agree much less."""
    dataset, path = ManyFrames(), Path(tiny.card().artifact_path("onnx"))
    share = training.export.agreement(lambda _: [torch.zeros(1, *tiny.SIZE)], path, dataset, 5)
    assert dataset.taken == [0, 11, 22, 33, 44] and 0.0 <= share <= 1.0


def test_half_precision_has_its_own_threshold(run, monkeypatch):
    shares = {"model.onnx": 1.0, "model_fp16.onnx": 0.9951}
    monkeypatch.setattr(training.export, "agreement", lambda graph, path, *_: shares[path.name])
    assert (export(run, "--variant", "fp16", monkeypatch=monkeypatch) / "model_fp16.onnx").exists()


SIZES = ("--size", "24x32", "--batch", "1", "--batch", "2")


def test_several_sizes_and_batches_are_on_the_card_with_what_they_score(run, monkeypatch):
    folder = export(run, *SIZES, monkeypatch=monkeypatch)
    card = read_card(str(folder))
    files = ["model.onnx", "model_batch2.onnx", "model_24x32.onnx", "model_24x32_batch2.onnx"]
    assert [artifact.file for artifact in card.artifacts] == [*files, "weights.safetensors"]
    assert card.sizes("onnx") == card.sizes("weights") == [(45, 60), (24, 32)]
    assert card.input_size == (45, 60) and card.confidence is not None
    dataset = TwoFrames()
    for size in card.sizes("onnx"):
        at_size = card.at_size(size)
        for batch in (1, 2):
            with open_backend("onnxruntime", at_size, BackendOptions(batch=batch)) as backend:
                assert backend.input_shape == (batch, *size, 3)
        # Scored by hand, through the torch backend: the weights serve every size.
        with open_segmenter(at_size, "torch") as segmenter:
            matrix = evaluate_dataset(segmenter, dataset).accuracy.matrix
        (found,) = at_size.mean_ious("onnx", "fp32").values()
        assert found == pytest.approx(matrix.mean_iou(), abs=2e-4)
    check_folder(str(folder), training.export.LAYOUT)  # another export may take its place


def test_the_figures_of_a_data_set_can_be_put_on_the_card(run, monkeypatch, capsys):
    monkeypatch.setattr(dataset_command, "open_dataset", lambda *_, **__: TwoFrames())
    folder = export(run, "--size", "24x32", monkeypatch=monkeypatch)
    expected = read_card(str(folder))
    card = yaml.safe_load((folder / "model.yaml").read_text())
    training.export.write_card(folder, {**card, "accuracy": []})
    command = ["dataset", "--model", str(folder), "--backend", "onnxruntime", "--dataset", "camvid"]
    assert evaluation([*command, "--to-card"]) == 0
    assert evaluation([*command, "--size", "24x32", "--to-card"]) == 0
    assert read_card(str(folder)).accuracy == in_fp32(expected)
    assert evaluation([*command, "--rotation", "180", "--to-card"]) == 1
    assert "--to-card: a card's figures are of whole images" in capsys.readouterr().err
    assert read_card(str(folder)).accuracy == in_fp32(expected)


def test_every_data_set_says_what_licence_its_weights_carry():
    assert set(training.card.DATA) == set(DATASETS)
