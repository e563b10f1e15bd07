"""What a run leaves to look at: log.csv, TensorBoard curves, overlays, lines with an ETA."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from segmentation_node.files import new_file
from segmentation_node.images import blend
from segmentation_node.labels import LabelSet
from training.scoring import Score

COLUMNS = (
    "epoch",
    "loss",
    "val_mean_iou",
    "elapsed_s",
    "val_global_accuracy",
    "learning_rate",
    "images_per_s",
)
OVERLAY_ALPHA = 0.5


class RunLog:
    """Writes into a run's folder; a silent one (not the first process) does nothing."""

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
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def losses(self, values: Sequence[float], learning_rate: float) -> None:
        """Note the losses of the last steps."""
        self._bar.update(len(values))
        for value in values:
            self.done += 1
            if self._board is not None:
                self._board.add_scalar("train/loss", value, self.done)
        if self._board is not None and values:
            self._board.add_scalar("train/learning_rate", learning_rate, self.done)

    def epoch(self, row: dict[str, Any], score: Score | None, remaining_s: float) -> None:
        """Note a finished epoch and its score."""
        if self.silent:
            return
        with open(self.folder / "log.csv", "a", newline="") as stream:
            csv.DictWriter(stream, COLUMNS).writerow(row)
        self._bar.clear()
        print(
            f"epoch {row['epoch']} loss {row['loss']} val mIoU {row['val_mean_iou'] or '-'} "
            f"{row['images_per_s']} images/s elapsed {row['elapsed_s']} s, "
            f"{remaining_s:.0f} s to go",
            flush=True,
        )
        self._board.add_scalar("train/images_per_s", float(row["images_per_s"]), self.done)
        if score is not None:
            self._score(int(row["epoch"]), score)

    def _score(self, epoch: int, score: Score) -> None:
        self._board.add_scalar("val/mean_iou", score.matrix.mean_iou(), self.done)
        for name, iou in zip(self.labels.names, score.matrix.class_iou(), strict=True):
            if not np.isnan(iou):
                self._board.add_scalar(f"val_iou/{name}", iou, self.done)
        for number, (image_hwc, class_map_hw) in enumerate(score.samples):
            overlay = blend(image_hwc, class_map_hw, self.labels.palette(), OVERLAY_ALPHA)
            self._board.add_image(f"overlay/{number}", overlay, self.done, dataformats="HWC")
            path = self.folder / "overlays" / f"epoch{epoch:04d}_{number}.png"
            cv2.imwrite(str(path), cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))

    def _open(self, epochs_done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        (self.folder / "overlays").mkdir(exist_ok=True)
        purge = self.done + 1 if self.done else None
        self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=purge)
        path = self.folder / "log.csv"
        rows = _rows(path, epochs_done) if epochs_done else []
        with new_file(str(path)) as partial:
            _write(partial, rows)


def _rows(path: Path, epochs: int) -> list[dict[str, str]]:
    """The rows of epochs that the checkpoint counts as finished."""
    with open(path, newline="") as stream:
        return [row for row in csv.DictReader(stream) if int(row["epoch"]) <= epochs]


def _write(path: str, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
