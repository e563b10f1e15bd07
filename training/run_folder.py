"""The folder of a run: recipe, checkpoint, weights, and what it leaves to look at."""

import csv
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from torch import nn
from tqdm import tqdm

from segmentation_node.errors import reason, shown
from segmentation_node.files import alone_in, new_file, write_whole
from segmentation_node.images import blend
from segmentation_node.labels import LabelSet
from segmentation_node.networks import build_network
from segmentation_node.networks.deploy import Normalise
from training.checkpoint import (
    BEST_FILE,
    CHECKPOINT_FILE,
    WEIGHTS_FILE,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_weights,
)
from training.distributed import Group
from training.errors import TrainingError, writing
from training.recipe import RECIPE_FILE, Recipe
from training.scoring import Score
from training.state import TrainingState

LOG_FILE = "log.csv"
COLUMNS = (
    "epoch",
    "loss",
    "val_mean_iou",
    "elapsed_s",
    "val_global_accuracy",
    "learning_rate",
    "images_per_s",
)
BOARD = "tensorboard"
OVERLAY_ALPHA = 0.5


def network_of_run(run: Path, classes: int) -> tuple[nn.Module, Normalise]:
    """The network of a run's folder with its last weights, in evaluation mode on the CPU, and what
    comes before it: images float32 (N, 3, H, W) in 0-255 -> logits (N, classes, H, W).

    Raises RecipeError, or TrainingError where the weights are of another network.
    """
    recipe = Recipe.read(run / RECIPE_FILE)
    network = build_network(recipe.network, classes, recipe.network_options)
    load_weights(network, run / WEIGHTS_FILE)
    return network, Normalise(recipe.mean_rgb, recipe.std_rgb)


class RunFolder:
    """Where the first process of a group keeps a run's state."""

    def __init__(self, path: Path, recipe: Recipe, state: TrainingState, group: Group) -> None:
        self.path, self.recipe, self.state, self.group = path, recipe, state, group

    def open(self, resume: bool) -> None:
        """Load the last checkpoint, or begin a run where there is none."""
        if resume:
            self._restore(load_checkpoint(self.path))
        elif (self.path / CHECKPOINT_FILE).exists():
            raise TrainingError(
                f"{self.path} holds a run; add --resume to go on, or choose another folder"
            )
        else:
            self._check_others()
        self.group.wait()
        if self.group.is_first:
            with writing(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
            self.recipe.write(self.path / RECIPE_FILE)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While a run trains in it. Raises TrainingError where another one does."""
        if not self.group.is_first:
            yield
            return
        with alone_in(str(self.path), 0.0) as is_alone:
            if not is_alone:
                raise TrainingError(f"{self.path}: another run trains in it; choose another folder")
            yield

    def _check_others(self) -> None:
        """What a run of this recipe left before its first checkpoint is replaced, nothing else."""
        recipe = self.path / RECIPE_FILE
        if recipe.is_file() and recipe.read_bytes() == self.recipe.text().encode():
            return
        for name in (RECIPE_FILE, LOG_FILE, WEIGHTS_FILE, BEST_FILE):
            if (self.path / name).exists():
                raise TrainingError(
                    f"{self.path} holds {name}, which is not of a run of this recipe: it is left "
                    "alone; choose another folder"
                )

    def _restore(self, content: dict[str, Any]) -> None:
        # By way of a recipe: keys that came after the run was begun have their defaults.
        _check_same(asdict(Recipe.of(content["recipe"])), asdict(self.recipe))
        try:
            # Checkpoints of before this key was there have none.
            _check_same_data(content["state"].get("data", {}), self.state.data)
            self.state.load_state_dict(content["state"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            path = self.path / CHECKPOINT_FILE
            raise TrainingError(f"{path}: not a state of this run: {reason(error)}") from error

    def save_checkpoint(self) -> None:
        """Replace the checkpoint by the state of now."""
        if self.group.is_first:
            content = {"recipe": asdict(self.recipe), "state": self.state.state_dict()}
            save_checkpoint(self.path, content)

    def save_weights(self, name: str) -> None:
        """Write the weights that are scored and exported."""
        if self.group.is_first:
            save_weights(self.path / name, self.state.result, self.state.epoch)


class RunLog:
    """log.csv, TensorBoard curves, overlays, and lines with an ETA.

    A silent one (not the first process) does nothing.
    """

    def __init__(
        self, folder: Path, labels: LabelSet, steps: int, done: int, epochs_done: int, silent: bool
    ) -> None:
        self.folder, self.labels, self.silent = folder, labels, silent
        self.steps, self.done = steps, done
        self._board: Any = None
        # Without a terminal tqdm draws nothing, and the lines per epoch are enough.
        self._bar = tqdm(
            total=steps, initial=done, unit="step", disable=True if silent else None, leave=False
        )
        if not silent:
            self._open(epochs_done)

    def __enter__(self) -> "RunLog":
        self._hook, threading.excepthook = threading.excepthook, self._on_thread_error
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        try:
            if self._board is not None:
                with writing(self.folder / BOARD):
                    self._board.close()
        finally:
            threading.excepthook = self._hook

    def losses(self, values: Sequence[float], learning_rate: float) -> None:
        """Note the losses of the last steps."""
        self._bar.update(len(values))
        for value in values:
            self.done += 1
            self._note("train/loss", value)
        if values:
            self._note("train/learning_rate", learning_rate)

    def epoch(self, row: dict[str, Any], score: Score | None, remaining_s: float) -> None:
        """Note a finished epoch and its score."""
        if self.silent:
            return
        path = self.folder / LOG_FILE
        with writing(path), open(path, "a", newline="") as stream:
            csv.DictWriter(stream, COLUMNS).writerow(row)
        self._bar.clear()
        print(
            f"epoch {row['epoch']} loss {row['loss']} val mIoU {row['val_mean_iou'] or '-'} "
            f"{row['images_per_s']} images/s elapsed {row['elapsed_s']} s, "
            f"{remaining_s:.0f} s to go",
            flush=True,
        )
        self._note("train/images_per_s", float(row["images_per_s"]))
        if score is not None:
            self._score(int(row["epoch"]), score)

    def _note(self, name: str, value: float) -> None:
        if self._board is not None:
            with writing(self.folder / BOARD):
                self._board.add_scalar(name, value, self.done)

    def _on_thread_error(self, details: Any) -> None:
        # Of a file that TensorBoard's thread could not write the next note tells.
        if not isinstance(details.exc_value, OSError):
            self._hook(details)

    def _score(self, epoch: int, score: Score) -> None:
        self._note("val/mean_iou", score.matrix.mean_iou())
        for name, iou in zip(self.labels.names, score.matrix.class_iou(), strict=True):
            if not np.isnan(iou):
                self._note(f"val_iou/{name}", iou)
        for number, (image_hwc, class_map_hw) in enumerate(score.samples):
            overlay = blend(image_hwc, class_map_hw, self.labels.palette(), OVERLAY_ALPHA)
            with writing(self.folder / BOARD):
                self._board.add_image(f"overlay/{number}", overlay, self.done, dataformats="HWC")
            path = self.folder / "overlays" / f"epoch{epoch:04d}_{number}.png"
            _write_png(path, overlay)

    def _open(self, epochs_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        (self.folder / "overlays").mkdir(exist_ok=True)
        purge = self.done + 1 if self.done else None
        self._board = SummaryWriter(str(self.folder / BOARD), purge_step=purge)
        path = self.folder / LOG_FILE
        rows = _rows(path, epochs_done) if epochs_done else []
        with new_file(str(path)) as partial:
            _write(partial, rows)


def _write_png(path: Path, image_hwc: np.ndarray) -> None:
    png = cv2.imencode(".png", cv2.cvtColor(image_hwc, cv2.COLOR_RGB2BGR))[1].tobytes()
    write_whole(str(path), png)


def _check_same(saved: dict[str, Any], now: dict[str, Any]) -> None:
    changed = sorted(key for key in now if saved[key] != now[key])
    if changed:
        raise TrainingError(f"the recipe differs from the run's in {changed}; take the run's own")


def _check_same_data(saved: dict[str, Any], now: dict[str, Any]) -> None:
    for key in saved:
        if saved[key] != now[key]:
            raise TrainingError(
                f"the run's {key}: {shown(saved[key])}; found {shown(now[key])}; take the run's "
                "own data, as --root, --limit and --skip-broken chose them"
            )


def _rows(path: Path, epochs: int) -> list[dict[str, str]]:
    """The rows of epochs that the checkpoint counts as finished."""
    try:
        with open(path, newline="") as stream:
            return [row for row in csv.DictReader(stream) if int(row["epoch"]) <= epochs]
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise TrainingError(f"{path}: not the log of this run: {reason(error)}") from error


def _write(path: str, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
