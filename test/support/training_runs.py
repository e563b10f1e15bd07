"""What the tests of training share: a tiny CamVid on disk, small recipes, the command."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml

from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.labels import CAMVID_11
from training.data import Split
from training.recipe import Recipe, RunOptions
from training.trainer import Trainer

PROJECT = Path(__file__).resolve().parents[2]
IMAGES = PROJECT.parent / "shared" / "datasets"
"""Real images, on machines that have them."""
CPU = torch.device("cpu")


def recipe(**changes):
    values = {
        "network": "elu_squeezenet",
        "dataset": "camvid",
        "epochs": 3,
        "batch_size": 4,
        "crop_size": [32, 48],
        "evaluate_every": 1,
    }
    return {**values, **changes}


def write_recipe(folder, **changes):
    path = folder / "recipe_in.yaml"
    path.write_text(yaml.safe_dump(recipe(**changes)))
    return path


def read_recipe(folder, **changes):
    return Recipe.read(write_recipe(folder, **changes))


def write_camvid(root, counts=(("train", 12), ("val", 4)), size=(48, 64)):
    """Blocks of three classes in their colours: images and labels in SegNet's layout."""
    palette = CAMVID_11.palette()
    for split, count in counts:
        random = np.random.default_rng(count)
        for folder in (split, split + "annot"):
            (root / folder).mkdir(parents=True)
        for index in range(count):
            blocks = random.choice(np.array([0, 3, 8], np.uint8), (size[0] // 8, size[1] // 8))
            labels = blocks.repeat(8, axis=0).repeat(8, axis=1)
            noise = random.normal(0, 8, (*size, 3))
            image = np.clip(palette[labels] + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / split / f"{index}.png"), image[..., ::-1])
            cv2.imwrite(str(root / (split + "annot") / f"{index}.png"), labels)
    return root


def command(recipe_path, root, output, *more):
    return [
        *("-m", "training.train", str(recipe_path), "--root", str(root), "--output", str(output)),
        *("--threads", "1", "--device", "cpu", *map(str, more)),
    ]


def start(*arguments):
    """The training command as a process of its own; its output comes with ``communicate``."""
    return python(*command(*arguments))


def python(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=PROJECT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def make_trainer(recipe, root, output, val=True, **options):
    train = Split(open_dataset(recipe.dataset, str(root), "train"), CPU)
    validation = Split(open_dataset(recipe.dataset, str(root), "val"), CPU) if val else None
    return Trainer(recipe, train, validation, output, RunOptions(**options))


def rows(output):
    with open(output / "log.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def losses(output):
    return [float(row["loss"]) for row in rows(output)]
