"""``training.add_variants``: forms that a folder lacks, made as the export would have made them."""

import shutil
from pathlib import Path

import onnx
import yaml
from support.small_exports import TwoFrames, export, in_fp32, kinds_of

import training.add_variants
import training.card
import training.export
from segmentation_node.model_card import read_card


def test_a_variant_is_added_as_the_export_would_have_made_it(exported, monkeypatch):
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: TwoFrames())
    expected, folder = exported, Path(shutil.copytree(exported, exported.parent / "model"))
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


def test_figures_are_of_the_split_that_the_cards_own_are_of(exported, monkeypatch):
    """Val, where the card's are of trainval, was trained on."""
    opened = []
    monkeypatch.setattr(
        training.add_variants, "open_dataset", lambda *told: opened.append(told) or TwoFrames()
    )
    card = yaml.safe_load((exported / "model.yaml").read_text())
    card["accuracy"] = [{**item, "split": "trainval"} for item in card["accuracy"]]
    training.export.write_card(exported, card)
    command = [str(exported), "--variant", "float", "--dataset", "camvid", "--root", "data"]
    assert training.add_variants.main(command) == 0
    assert training.add_variants.main([*command, "--split", "test"]) == 0
    assert opened == [("camvid", "data", "trainval"), ("camvid", "data", "test")]


def test_a_variant_that_does_not_agree_is_not_added(exported, monkeypatch, capsys):
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: TwoFrames())
    folder = exported
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(training.export, "agreement", lambda *_: 0.5)
    assert training.add_variants.main([str(folder), "--variant", "fp16"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "model_fp16.onnx: they must agree on 99.50%" in error
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_size_is_added_as_the_export_would_have_made_it(run, monkeypatch, capsys):
    monkeypatch.setattr(training.add_variants, "open_dataset", lambda *_: TwoFrames())
    expected = export(run, "--size", "24x32", monkeypatch=monkeypatch)
    small = Path(shutil.copytree(expected, run.parent / "small_model"))
    card = yaml.safe_load((small / "model.yaml").read_text())
    for key in ("artifacts", "accuracy"):
        card[key] = [item for item in card[key] if item.get("height") != 24]
    training.export.write_card(small, card)
    (small / "model_24x32.onnx").unlink()
    assert read_card(str(small)).sizes("onnx") == [(45, 60)]
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


def test_variants_of_what_is_no_model_are_one_line(tmp_path, capsys):
    assert training.add_variants.main([str(tmp_path / "gone"), "--variant", "fp16"]) == 1
    assert "no such model folder" in capsys.readouterr().err
