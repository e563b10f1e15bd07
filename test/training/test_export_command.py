"""``training.export`` on a small run: files, card, and the check before anything appears."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.core import tiny
from support.int8_graph import count_int8_convolutions

import training.add_variants
import training.card
import training.export
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.backends.cpu import multiplies_bf16
from segmentation_node.evaluation.__main__ import main as evaluation
from segmentation_node.evaluation.commands import dataset as dataset_command
from segmentation_node.evaluation.datasets import DATASETS, Dataset
from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.files import check_folder
from segmentation_node.labels import CAMVID_11
from segmentation_node.model_card import read_card
from segmentation_node.networks import build_network
from segmentation_node.pipeline import open_segmenter


class TwoFrames(Dataset):
    """In place of CamVid, which no fresh machine has."""

    label_set = CAMVID_11

    splits = ("val",)

    def __init__(self):
        super().__init__("", "val")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        generator = np.random.default_rng(index)
        coarse = generator.integers(0, 256, (6, 8, 3), np.uint8)
        image = np.ascontiguousarray(coarse.repeat(15, axis=0).repeat(15, axis=1))
        return Frame(str(index), image, generator.integers(0, 11, (90, 120), np.uint8))


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(training.export, "open_data", lambda *_: TwoFrames())
    return make_run(tmp_path / "runs" / "small")


def make_run(folder):
    """A training run's folder, with weights that learned nothing."""
    folder.mkdir(parents=True)
    recipe = {"network": "elu_squeezenet", "dataset": "camvid", "epochs": 1, "crop_size": [32, 32]}
    recipe["network_options"] = {"batch_norm": True}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    torch.manual_seed(0)
    network = build_network("elu_squeezenet", 11, recipe["network_options"])
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder


def export(run, *arguments, monkeypatch):
    models = run.parent.parent / "models"
    command = ["training.export", str(run), "--name", "small", "--models", str(models)]
    monkeypatch.setattr("sys.argv", [*command, "--size", "45x60", *arguments])
    training.export.main()
    return models / "small"


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


def test_uint8_alone_is_the_default(run, monkeypatch):
    folder = export(run, monkeypatch=monkeypatch)
    kinds = [artifact.kind for artifact in read_card(str(folder)).artifacts]
    assert kinds == ["onnx", "weights"]
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]


@pytest.mark.parametrize(
    "start, expected",
    [
        ({}, "; no pre-training"),
        ({"trunk": "vgg16.pth"}, "; started from vgg16.pth"),
        ({"start_weights": "old/weights.safetensors"}, "; started from old/weights.safetensors"),
    ],
)
def test_the_card_says_what_the_weights_started_from(run, start, expected, monkeypatch):
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, **start}))
    card = read_card(str(export(run, monkeypatch=monkeypatch)))
    assert card.weights.data.endswith("480x360, split train" + expected)


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
    def named(run):
        return read_card(str(export(run, monkeypatch=monkeypatch))).weights.provenance

    assert named(run) == f"python -m training.train {run / 'recipe.yaml'}"
    monkeypatch.setattr(training.export, "PROJECT", run.parent)
    shipped = run.parent / "training" / "recipes" / "small.yaml"
    shipped.parent.mkdir(parents=True)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    for epochs, expected in ((2, run / "recipe.yaml"), (1, "training/recipes/small.yaml")):
        shipped.write_text(yaml.safe_dump({**recipe, "epochs": epochs, "seed": 0}))
        assert named(run) == f"python -m training.train {expected}"


def test_the_card_carries_the_licences_of_all_that_it_started_and_learned_from(run, monkeypatch):
    """Kitti's by way of two runs that go round in a circle, a folder's by a card, one by none."""
    monkeypatch.chdir(run.parent)
    base = yaml.safe_load((run / "recipe.yaml").read_text())

    def write(folder, **changes):
        Path(folder).mkdir(exist_ok=True)
        (Path(folder) / "recipe.yaml").write_text(yaml.safe_dump({**base, **changes}))

    teachers = ["carded", "old"]
    write(run, start_weights="second/weights.safetensors", distillation={"teacher": teachers})
    write("old", class_mix=0.5)
    write("second", start_weights="first/best.safetensors")
    write(
        "first",
        dataset="kitti_step",
        start_weights="second/weights.safetensors",
        distillation={"teacher": "gone"},
    )
    shutil.copytree(export(make_run(run.parent / "other"), monkeypatch=monkeypatch), "carded")
    card = yaml.safe_load(Path("carded/model.yaml").read_text())
    card["weights"]["licence"] = "ask Ann"
    Path("carded/model.yaml").write_text(yaml.safe_dump(card))
    assert read_card(str(export(run, monkeypatch=monkeypatch))).weights.licence == (
        "research use only, as CamVid's own terms (University of Cambridge) ask; of what it "
        "started or learned from: ask Ann; unknown for old, whose recipe.yaml is of another "
        "version; CC BY-NC-SA 3.0, as KITTI's own terms ask; unknown for gone, where neither "
        "model.yaml nor recipe.yaml is"
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


def test_an_export_replaces_an_export(run, monkeypatch):
    (export(run, "--variant", "float", monkeypatch=monkeypatch) / "model_float.onnx").stat()
    assert not (export(run, monkeypatch=monkeypatch) / "model_float.onnx").exists()


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


def kinds_of(folder):
    return [artifact.kind for artifact in read_card(str(folder)).artifacts]


def test_a_variant_is_added_as_the_export_would_have_made_it(run, monkeypatch):
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: TwoFrames())
    expected = export(run, "--variant", "float", monkeypatch=monkeypatch)
    folder = Path(shutil.copytree(expected, expected.parent / "model"))
    card = yaml.safe_load((folder / "model.yaml").read_text())
    card["artifacts"] = [item for item in card["artifacts"] if item["kind"] != "onnx_float"]
    training.export.write_card(folder, card)
    (folder / "model_float.onnx").unlink()
    for _ in range(2):  # again: in place of the one that is there
        assert training.add_variants.main([str(folder), "--variant", "float"]) == 0
        assert sorted(kinds_of(folder)) == ["onnx", "onnx_float", "weights"]
        for name in ("model.onnx", "model_float.onnx", "weights.safetensors"):
            assert (folder / name).read_bytes() == (expected / name).read_bytes()
    assert len(list(folder.iterdir())) == len(list(expected.iterdir()))
    found = read_card(str(folder))
    assert found.accuracy == read_card(str(expected)).accuracy
    for kind in kinds_of(folder):
        assert found.artifact_path(kind)


def test_a_variant_that_does_not_agree_is_not_added(run, monkeypatch, capsys):
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: TwoFrames())
    folder = export(run, monkeypatch=monkeypatch)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(training.export, "agreement", lambda *_: 0.5)
    assert training.add_variants.main([str(folder), "--variant", "float"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "model_float.onnx: they must agree on 99.99%" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


LEAST_AGREEMENT_INT8 = 0.8
"""Weights that learned nothing decide by a hair."""


@pytest.fixture(scope="module")
def exported_int8(tmp_path_factory):
    """An export with int8."""
    run = make_run(tmp_path_factory.mktemp("int8") / "runs" / "small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.export, "open_data", lambda *_: TwoFrames())
        patch.setattr(training.export, "LEAST_AGREEMENT_INT8", LEAST_AGREEMENT_INT8)
        return export(run, "--variant", "int8", monkeypatch=patch)


@pytest.fixture
def int8(exported_int8, tmp_path, monkeypatch):
    """A copy of it, to which variants can be added."""
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: TwoFrames())
    monkeypatch.setattr(training.export, "LEAST_AGREEMENT_INT8", LEAST_AGREEMENT_INT8)
    return Path(shutil.copytree(exported_int8, tmp_path / "small"))


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_int8_is_exported_and_runs(exported_int8, name):
    if BACKENDS[name].unavailable():
        pytest.skip(f"NOT RUN: {BACKENDS[name].unavailable()}")
    card = read_card(str(exported_int8))
    assert kinds_of(exported_int8) == ["onnx", "onnx_int8", "weights"]
    computed_in = [item.computed_in for item in card.accuracy]
    assert [item for item in computed_in if item != "bf16"] == ["fp32", "int8"]
    model = onnx.load(exported_int8 / "model_int8.onnx")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert count_int8_convolutions(model) == len(convolutions) - 3 > 20  # the first two, the last
    # ONNX Runtime 1.10 knows this one, and refuses a newer one that is only named.
    assert [(item.domain, item.version) for item in model.opset_import] == [("", 13)]
    image_nhwc = TwoFrames()[0].image_hwc[None, ::2, ::2].copy()
    maps = {}
    for precision in ("fp32", "int8"):
        with open_backend(name, card, BackendOptions(precision=precision)) as backend:
            found = backend.run(image_nhwc, with_confidence=True)
            maps[precision] = found.class_map_nhw.copy(), found.confidence_nhw.copy()
    assert (maps["int8"][0] == maps["fp32"][0]).mean() > 0.8
    # Rounding to 8 bits shows: it is another graph that runs.
    assert (maps["int8"][1] != maps["fp32"][1]).any()


def test_int8_is_added_as_the_export_would_have_made_it(int8):
    card = yaml.safe_load((int8 / "model.yaml").read_text())
    exported = {path.name: path.read_bytes() for path in int8.iterdir()}
    without = {**card, "accuracy": card["accuracy"][:-1]}
    without["artifacts"] = [item for item in card["artifacts"] if item["kind"] != "onnx_int8"]
    training.export.write_card(int8, without)
    (int8 / "model_int8.onnx").unlink()
    command = [str(int8), "--variant", "int8", "--dataset", "camvid"]
    for _ in range(2):  # again: in place of the one that is there
        assert training.add_variants.main(command) == 0
        found = yaml.safe_load((int8 / "model.yaml").read_text())
        assert found["accuracy"] == card["accuracy"]
        assert sorted(kinds_of(int8)) == ["onnx", "onnx_int8", "weights"]
        for name in exported.keys() - {"model.yaml"}:
            assert (int8 / name).read_bytes() == exported[name]
    assert read_card(str(int8)).artifact_path("onnx_int8")


def test_int8_needs_images_that_the_model_is_for(exported_int8, capsys):
    before = {path.name: path.read_bytes() for path in exported_int8.iterdir()}
    assert training.add_variants.main([str(exported_int8), "--variant", "int8"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "not from the street's; name the --dataset" in said
    assert {path.name: path.read_bytes() for path in exported_int8.iterdir()} == before


def test_int8_that_does_not_agree_is_not_added(int8, monkeypatch, capsys):
    before = {path.name: path.read_bytes() for path in int8.iterdir()}
    monkeypatch.setattr(training.export, "agreement", lambda *_: 0.79)
    command = [str(int8), "--variant", "int8", "--dataset", "camvid"]
    assert training.add_variants.main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "model_int8.onnx: they must agree on 80.00%" in error
    assert {path.name: path.read_bytes() for path in int8.iterdir()} == before


def in_fp32(card):
    return [item for item in card.accuracy if item.computed_in == "fp32"]


def classes_of(card, backend, precision):
    """Of both frames."""
    with open_segmenter(card, backend, BackendOptions(precision=precision)) as segmenter:
        images = [TwoFrames()[index].image_hwc for index in range(2)]
        return np.stack([segmenter.segment(image).class_map_hw.copy() for image in images])


def test_low_precisions_are_scored_beside_fp32_where_this_machine_has_them(exported_int8):
    """So that ``precision: auto`` can compare them."""
    card = read_card(str(exported_int8))
    found = {item.computed_in: item for item in card.accuracy}
    refused = BACKENDS["openvino"].unavailable() or not multiplies_bf16()
    assert list(found) == (["fp32", "int8"] if refused else ["fp32", "bf16", "int8"])
    assert found.pop("fp32").agreement is None
    for precision, item in found.items():
        assert (item.dataset, item.split, item.frames) == ("camvid", "val", 2)
        agreements = []
        for name in ("onnxruntime", "openvino"):
            if precision in BACKENDS[name].precisions and not BACKENDS[name].unavailable():
                low, full = (classes_of(card, name, asked) for asked in (precision, "fp32"))
                agreements.append(pytest.approx((low == full).mean(), abs=1e-5))
        assert item.agreement in agreements and 0.8 < item.agreement < 1.0


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


def test_a_size_is_added_as_the_export_would_have_made_it(run, monkeypatch, capsys):
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: TwoFrames())
    small = Path(shutil.copytree(export(run, monkeypatch=monkeypatch), run.parent / "small_model"))
    expected = export(run, "--size", "24x32", monkeypatch=monkeypatch)
    command = [str(small), "--variant", "uint8", "--size", "24x32"]
    assert training.add_variants.main(command) == 1
    assert "name the --dataset" in capsys.readouterr().err
    for _ in range(2):  # again: in place of the one that is there
        assert training.add_variants.main([*command, "--dataset", "camvid"]) == 0
        found, wanted = read_card(str(small)), read_card(str(expected))
        assert found.accuracy == wanted.accuracy and len(in_fp32(found)) == 2
        assert sorted(map(str, found.artifacts)) == sorted(map(str, wanted.artifacts))
        assert found.artifact_path("onnx") and found.at_size((24, 32)).artifact_path("onnx")


def test_variants_take_the_batch_of_the_folders_graph(run, monkeypatch, capsys):
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: TwoFrames())
    folder = export(run, "--batch", "2", monkeypatch=monkeypatch)
    command = [str(folder), "--variant", "uint8", "float"]
    assert training.add_variants.main(command) == 0
    assert training.add_variants.main([*command, "--batch", "1"]) == 0
    card = read_card(str(folder))
    found = {(item.file, item.batch) for item in card.artifacts_of("onnx")}
    assert found == {("model.onnx", 2), ("model_batch1.onnx", None)}
    for kind in ("onnx", "onnx_float"):
        for batch in (1, 2):
            graph = onnx.load(card.artifact_path(kind, batch)).graph
            assert graph.input[0].type.tensor_type.shape.dim[0].dim_value == batch
    # As versions before this one left it.
    content = yaml.safe_load((folder / "model.yaml").read_text())
    (entry,) = (item for item in content["artifacts"] if item["file"] == "model_float.onnx")
    entry["batch"] = 3
    training.export.write_card(folder, content)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert training.add_variants.main(command) == 1
    said = "error: model_float.onnx takes 3 images a run by the card, and would take 2; give"
    assert capsys.readouterr().err == said + " --batch 3\n"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


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


def test_variants_of_what_is_no_model_are_one_line(tmp_path, capsys):
    assert training.add_variants.main([str(tmp_path / "gone"), "--variant", "fp16"]) == 1
    assert "no such model folder" in capsys.readouterr().err


def test_every_data_set_says_what_licence_its_weights_carry():
    assert set(training.card.DATA) == set(DATASETS)
