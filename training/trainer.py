"""The training loop: epochs of steps, evaluation, checkpoints, and a polite end."""

import signal
import threading
import time
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from segmentation_node.networks.deploy import Normalise
from training.augment import Augmentation
from training.checkpoint import BEST_FILE, WEIGHTS_FILE
from training.data import AnySplit
from training.distributed import Group
from training.errors import TrainingError
from training.losses import Criterion
from training.recipe import Recipe, RunOptions
from training.run_folder import RunFolder, RunLog
from training.scoring import Score, measure_batch_norm, recompute_batch_norm, score
from training.state import TrainingState
from training.step import TrainStep

STEPS_BETWEEN_LOOKS = {"cuda": 8}
"""Reading a loss waits for the device: on a GPU only every so many steps."""
SAMPLES = 4
"""Overlays per evaluation."""


class Stopped(Exception):
    """The run was asked to end before it was finished."""


class StopRequest:
    """A polite stop: the first SIGINT or SIGTERM asks, the second one ends the process.

    Signals are noted inside its ``with`` block; ``signal`` is the number, 0 while there is none.
    """

    def __init__(self) -> None:
        self.signal = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python lets only the main thread handle signals.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


class Trainer:
    """One run of a recipe in a folder."""

    def __init__(
        self,
        recipe: Recipe,
        train: AnySplit,
        val: AnySplit | None,
        output: Path,
        options: RunOptions | None = None,
        group: Group | None = None,
    ) -> None:
        self.recipe, self.train_split, self.val_split, self.output = recipe, train, val, output
        self.options, self.group = options or RunOptions(), group or Group()
        self.device = train.device
        self.steps_per_epoch = len(train) // recipe.batch_size
        self._check_batch()
        self.state = TrainingState(recipe, train.classes, self.steps_per_epoch, self.device)
        self.state.data = {
            "training images": len(train),
            "training images' names, in SHA-256": sha256(
                "\n".join(train.names).encode()
            ).hexdigest(),
            "classes": list(train.label_set.names),
        }
        self.network = self.state.model.network
        self.folder = RunFolder(output, recipe, self.state, self.group)
        self.augment = Augmentation.of(recipe)
        self.normalise = Normalise(recipe.mean_rgb, recipe.std_rgb).to(self.device)
        # Before processes share the network: all get the first one's, with batch norms that sum.
        measure_batch_norm(self.network, self.state.unmeasured, self.normalise, train)
        criterion = Criterion.of(recipe, train)
        self._tell_of_absent(criterion.class_weights)
        self.train_step = TrainStep(
            recipe,
            self.state,
            criterion,
            self.group,
            self.options.accumulate,
            self.options.compile_network,
            self.options.cuda_graph,
        )
        self.stop = StopRequest()
        self.steps_done = 0
        self.is_finished = False

    def run(self) -> float:
        """Train to the end, or until asked to stop, and give the last mean IoU.

        Leaves recipe.yaml, log.csv, weights.safetensors, best.safetensors, checkpoint.pt,
        overlays/ and tensorboard/ in the folder.
        """
        self.folder.open(self.options.resume)
        self.mean_iou = float("nan")
        self._saved_at = time.monotonic()
        self._started_at = self._saved_at - self.state.elapsed_s
        with self.folder.alone(), self.stop, self._open_log() as self.log:
            try:
                while self.state.epoch < self.recipe.epochs:
                    self._train_epoch()
                    self._end_epoch()
                self.is_finished = True
            except Stopped:
                self.folder.save_weights(WEIGHTS_FILE)
            self._checkpoint()
        return self.mean_iou

    def _train_epoch(self) -> None:
        plan = self._plan_epoch()[self.state.step :]
        share = self.group.share(self.recipe.batch_size)
        started_s = time.monotonic()
        pending: list[torch.Tensor] = []
        batches = self.train_split.batches([order[share].tolist() for order, _ in plan])
        for (_, draws), (images, labels) in zip(plan, batches, strict=True):
            self._seed_step()
            augmented = self.augment.apply(images, labels, draws[:, share])
            pending.append(self.train_step(*augmented))
            self.state.step += 1
            self.steps_done += 1
            if self._is_time_to_look(len(pending)):
                self._look(pending)
                pending = []
        count = len(plan) * self.recipe.batch_size
        self._images_per_s = count / max(time.monotonic() - started_s, 1e-9)

    def _plan_epoch(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Indices and random numbers of every step; drawn again where an epoch is resumed."""
        generator, batch = self.state.generator, self.recipe.batch_size
        self.state.epoch_start_rng = generator.get_state()
        order = torch.randperm(len(self.train_split), generator=generator)
        starts = range(0, self.steps_per_epoch * batch, batch)
        return [(order[at : at + batch], self.augment.draw(batch, generator)) for at in starts]

    def _seed_step(self) -> None:
        """Makes dropout depend on the step alone, so that a resumed run repeats it."""
        done = self.state.epoch * self.steps_per_epoch + self.state.step
        torch.manual_seed((self.recipe.seed << 32) + done * self.group.world + self.group.rank)

    def _is_time_to_look(self, pending: int) -> bool:
        if pending >= STEPS_BETWEEN_LOOKS.get(self.device.type, 1):
            return True
        is_last = self.state.step == self.steps_per_epoch
        is_asked = self.group.world == 1 and self._wants_to_stop()
        return is_last or is_asked or self.steps_done == self.options.stop_after

    def _look(self, pending: list[torch.Tensor]) -> None:
        """Read the losses, check them, and see whether to save or to stop."""
        stop = torch.tensor(float(self._wants_to_stop()), device=self.device)
        *losses, stops = self.group.sum(torch.stack([*pending, stop])).tolist()
        self.state.guard.check(losses)
        self.state.epoch_losses += losses
        self.log.losses(losses, self.state.learning_rate)
        if stops:
            raise Stopped
        if time.monotonic() - self._saved_at >= self.options.checkpoint_minutes * 60:
            self._checkpoint()

    def _wants_to_stop(self) -> bool:
        reached = self.options.stop_after is not None and self.steps_done >= self.options.stop_after
        return bool(self.stop.signal) or reached

    def _end_epoch(self) -> None:
        state, recipe = self.state, self.recipe
        is_last = state.epoch + 1 == recipe.epochs
        if is_last and recipe.recompute_batch_norm:
            recompute_batch_norm(state.result, self.normalise, self.train_split, recipe.batch_size)
        is_due = is_last or (state.epoch + 1) % recipe.evaluate_every == 0
        found = self._score() if is_due and self.val_split is not None else None
        row = self._finish_epoch(found)
        remaining_s = state.elapsed_s / state.epoch * (recipe.epochs - state.epoch)
        self.log.epoch(row, found, remaining_s)
        if is_due:
            self._keep_weights(found)

    def _finish_epoch(self, found: Score | None) -> dict[str, Any]:
        """Move the position to the next epoch; gives this one's row of the log."""
        state = self.state
        loss = sum(state.epoch_losses) / max(1, len(state.epoch_losses))
        state.epoch, state.step, state.epoch_losses = state.epoch + 1, 0, []
        state.epoch_start_rng = state.generator.get_state()
        state.elapsed_s = time.monotonic() - self._started_at
        return {
            "epoch": state.epoch,
            "loss": f"{loss:.5f}",
            "val_mean_iou": f"{found.matrix.mean_iou():.4f}" if found else "",
            "elapsed_s": f"{state.elapsed_s:.1f}",
            "val_global_accuracy": f"{found.matrix.global_accuracy():.4f}" if found else "",
            "learning_rate": f"{state.learning_rate:.3g}",
            "images_per_s": f"{self._images_per_s:.2f}",
        }

    def _score(self) -> Score:
        if self.val_split is None:
            raise TrainingError("this run has no validation split")
        network = self.state.result
        self.group.spread(network)
        return score(
            network, self.normalise, self.val_split, self.group, SAMPLES, self._stop_if_asked
        )

    def _stop_if_asked(self) -> None:
        # Processes that share an evaluation cannot leave it alone.
        if self.group.world == 1 and self.stop.signal:
            raise Stopped

    def _keep_weights(self, found: Score | None) -> None:
        self.folder.save_weights(WEIGHTS_FILE)
        if found is None:
            return
        self.mean_iou = found.matrix.mean_iou()
        if self.mean_iou > self.state.best_mean_iou:
            self.state.best_mean_iou = self.mean_iou
            self.folder.save_weights(BEST_FILE)

    def _checkpoint(self) -> None:
        self._saved_at = time.monotonic()
        self.state.elapsed_s = self._saved_at - self._started_at
        self.folder.save_checkpoint()

    def _open_log(self) -> RunLog:
        return RunLog(
            self.output,
            self.train_split.label_set,
            self.recipe.epochs * self.steps_per_epoch,
            self.state.epoch * self.steps_per_epoch + self.state.step,
            self.state.epoch,
            not self.group.is_first,
        )

    def _tell_of_absent(self, class_weights: torch.Tensor) -> None:
        """Say which classes no training image shows, where a weight of 0 comes of counting them."""
        names = self.train_split.label_set.names
        weights = zip(names, class_weights.tolist(), strict=True)
        absent = [name for name, weight in weights if weight == 0]
        if absent and self.group.is_first and isinstance(self.recipe.class_weights, str):
            print(f"no training image shows, and none teaches: {', '.join(absent)}", flush=True)

    def _check_batch(self) -> None:
        batch, images = self.recipe.batch_size, len(self.train_split)
        if self.steps_per_epoch == 0:
            raise TrainingError(f"batch_size {batch} is more than the {images} training images")
        parts = self.group.world * self.options.accumulate
        if batch % parts:
            raise TrainingError(
                f"batch_size {batch} does not divide into {parts} parts "
                f"({self.group.world} processes x --accumulate {self.options.accumulate})"
            )
