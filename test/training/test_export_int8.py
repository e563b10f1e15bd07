"""Graphs in int8, exported and added: what is in them, what they give, and what the card says."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from support.int8_graph import count_int8_convolutions
from support.small_exports import TwoFrames, export, kinds_of, make_run

import training.add_variants
import training.card
import training.export
from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.backends.cpu import multiplies_bf16
from segmentation_node.model_card import read_card
from segmentation_node.pipeline import open_segmenter

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
