"""Exports of a small run whose weights learned nothing: what tests of their commands share."""

import numpy as np
import onnx
import torch
import yaml
from safetensors.torch import save_file

import training.export
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.frame import Frame
from segmentation_node.labels import CAMVID_11
from segmentation_node.model_card import read_card
from segmentation_node.networks import build_network


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


def kinds_of(folder):
    return [artifact.kind for artifact in read_card(str(folder)).artifacts]


def in_fp32(card):
    return [item for item in card.accuracy if item.computed_in == "fp32"]


def operators(model):
    """Names of a serialised graph's operators, in their order."""
    return [node.op_type for node in onnx.load_from_string(model).graph.node]
