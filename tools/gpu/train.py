"""Trains networks in turn, CamVid whole on the device, each for its share of the time.

``tools.gpu.run`` starts it, and again for what is left where a network fails.
"""

import argparse
import dataclasses
import gc
import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segmentation_node.errors import exit_code
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.report.text import write_json
from tools.gpu import OUTCOME_FILE, ROOT, START_FOLDER, TRAININGS, TRUNK_FILE
from tools.gpu.parts import Parts
from tools.gpu.pictures import SPLITS
from tools.gpu.weights import packed_weights
from training.checkpoint import WEIGHTS_FILE
from training.data import AnySplit, open_split
from training.recipe import Recipe, RunOptions
from training.run_folder import LOG_FILE, RECIPE_FILE
from training.train import prepare_arithmetic
from training.trainer import Trainer

TIMED_STEPS, TOY_STEPS = 20, 2
USED_SHARE = 0.9
"""Of a network's time: a step may take longer than those that were timed."""
LATER_RATE = 1 / 3
"""Of the recipe's learning rate, for a run that goes on from weights."""
TOY = {"crop_size": (32, 48), "batch_size": 2, "epochs": 1, "precision": "fp32"}


def recipe_of(network: str, is_toy: bool, root: Path = ROOT) -> Recipe:
    """What a network is trained by: on from weights that were sent, or from its start."""
    training = TRAININGS[network]
    recipe = Recipe.read(root / "training" / "recipes" / f"{training.recipe}.yaml")
    changes: dict[str, Any] = dict(TOY) if is_toy else {}
    start = next((root / START_FOLDER / network).glob("*.safetensors"), None)
    if start is not None:
        changes["start_weights"] = str(start.relative_to(root))
        changes["learning_rate"] = recipe.learning_rate * LATER_RATE
        changes.update(lovasz_weight=1.0, seed=recipe.seed + 1)
    elif training.has_trunk:
        changes["trunk"] = TRUNK_FILE
    return dataclasses.replace(recipe, **changes)


def seconds_for(network: str, left: Sequence[str], seconds: float) -> float:
    """A network's part of the time that is left for it and those behind it."""
    return seconds * TRAININGS[network].share / sum(TRAININGS[name].share for name in left)


def step_seconds(recipe: Recipe, training: AnySplit, folder: Path, is_graphed: bool) -> float:
    """What a step takes, warm."""
    timed = TOY_STEPS if training.device.type == "cpu" else TIMED_STEPS
    warm_up = 1 + timed // 4
    # A schedule has an end: here it lies behind what is timed.
    longer = dataclasses.replace(recipe, epochs=warm_up + timed)
    trainer = Trainer(longer, training, None, folder, RunOptions(cuda_graph=is_graphed))
    plan = [range(recipe.batch_size)] * (warm_up + timed)
    started_s = 0.0
    loss = torch.zeros(1)
    for number, (images, labels) in enumerate(trainer.train_split.batches(plan)):
        if number == warm_up:
            loss.item()  # waits for the device
            started_s = time.perf_counter()
        loss = trainer.train_step(*trainer.augment(images, labels, trainer.state.generator))
    loss.item()
    return (time.perf_counter() - started_s) / timed


def fitted(recipe: Recipe, step_s: float, steps_per_epoch: int, seconds: float) -> Recipe:
    """The recipe with as many of its epochs as fit, scored after the last."""
    fitting = int(USED_SHARE * seconds / (step_s * steps_per_epoch))
    epochs = max(1, min(recipe.epochs, fitting))
    return dataclasses.replace(recipe, epochs=epochs, evaluate_every=epochs)


def train(
    recipe: Recipe, splits: Sequence[AnySplit], folder: Path, seconds: float, is_graphed: bool
) -> dict[str, Any]:
    """Train for about that time; gives what is told of it.

    The score is of packed pictures: a look at the training, never quoted.
    """
    started_s = time.monotonic()
    training, validation = splits
    step_s = step_seconds(recipe, training, folder, is_graphed)
    left_s = seconds - (time.monotonic() - started_s)
    recipe = fitted(recipe, step_s, len(training) // recipe.batch_size, left_s)
    print(f"{recipe.network}: {step_s * 1e3:.2f} ms a step, {recipe.epochs} epochs", flush=True)
    options = RunOptions(cuda_graph=is_graphed)
    trainer = Trainer(recipe, training, validation, folder, options)
    timer = threading.Timer(left_s, _stop, (trainer,))
    timer.start()
    try:
        mean_iou = trainer.run()
    finally:
        timer.cancel()
    return {
        "network": recipe.network,
        "epochs": recipe.epochs,
        "finished": trainer.is_finished,
        "step_ms": round(step_s * 1e3, 3),
        "images_per_s": round(recipe.batch_size / step_s, 1),
        "cuda_graph": is_graphed,
        "took_s": round(time.monotonic() - started_s, 1),
        "mean_iou_of_packed_val": round(mean_iou, 4) if trainer.is_finished else None,
    }


def _stop(trainer: Trainer) -> None:
    trainer.stop.signal = signal.SIGTERM


def train_all(options: argparse.Namespace) -> int:
    """Every network in turn; its weights and what is told of it go to the parts."""
    ends_s = time.monotonic() + options.seconds
    device = torch.device(options.device)
    prepare_arithmetic(recipe_of(options.networks[0], options.toy), None)
    splits = [
        open_split(open_dataset("camvid", str(options.camvid), split), device, "memory")
        for split in SPLITS
    ]
    parts = Parts(options.output)
    for number, network in enumerate(options.networks):
        left_s = ends_s - time.monotonic()
        seconds = seconds_for(network, options.networks[number:], left_s)
        folder = options.work / network
        is_graphed = device.type == "cuda" and network not in options.eager
        recipe = recipe_of(network, options.toy)
        # What an attempt that failed left is of another recipe: not as many epochs fitted.
        shutil.rmtree(folder, ignore_errors=True)
        outcome = train(recipe, splits, folder, seconds, is_graphed)
        write_json(str(folder / OUTCOME_FILE), outcome)
        for name in (OUTCOME_FILE, RECIPE_FILE, LOG_FILE):
            parts.append(f"{network}/{name}", (folder / name).read_bytes())
        parts.append(f"{network}/{WEIGHTS_FILE}.z", packed_weights(folder / WEIGHTS_FILE))
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Train; what is not caught ends this process, and not the run."""
    parser = argparse.ArgumentParser(prog="tools.gpu.train", description=__doc__)
    parser.add_argument("networks", nargs="+", choices=list(TRAININGS))
    parser.add_argument("--camvid", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder of a run each")
    parser.add_argument("--output", type=Path, required=True, help="folder of the parts")
    parser.add_argument("--seconds", type=float, required=True, help="for all")
    parser.add_argument("--device", required=True)
    parser.add_argument("--eager", nargs="*", default=[], help="networks without a CUDA graph")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args(arguments)
    return exit_code(lambda: train_all(options))


if __name__ == "__main__":
    sys.exit(main())
