"""``python -m benchmarks.training_loop``: what loading and augmenting cost a training step.

Runs the trainer's own loop on the CPU, with its log, and, in turn with it, the same optimiser steps
on one batch that is ready in memory. The ratio of the two rates is the share of the loop that the
network gets. CPU time counts what every thread used: it holds on a busy machine too, but charges
for work that other cores would have done at the same time.
"""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import end_with, shown
from benchmarks.options import THREADS, parser_of, settings_of
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import by_clock
from segmentation_node.evaluation.datasets import open_dataset
from training.data import AnySplit, Split, StreamingSplit
from training.recipe import Recipe
from training.train import prepare_arithmetic
from training.trainer import Trainer

KINDS: dict[str, Callable[..., AnySplit]] = {"memory": Split, "stream": StreamingSplit}
KEYS = ("loop_s_per_image", "bare_s_per_image")


def loop_and_bare(
    recipe: Recipe, split: AnySplit, rounds: int
) -> Iterator[tuple[Callable[[], object], Callable[[], object]]]:
    """For each round a new trainer's loop, and as many bare steps, all on one augmented batch."""
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(recipe, split, None, Path(folder))
            images, labels = next(split.batches([range(recipe.batch_size)]))
            batch = trainer.augment(images, labels, trainer.state.generator)
            yield trainer.run, partial(_bare_steps, trainer, batch)


def _bare_steps(trainer: Trainer, batch: Any) -> None:
    for _ in range(trainer.steps_per_epoch):
        trainer.train_step(*batch)


def main(arguments: list[str] | None = None) -> None:
    """Measure a split in memory and one that is streamed; write and print the ratios."""
    defaults: dict[str, Any] = {
        "network": "elu_squeezenet",
        "images": 48,
        "rounds": 5,
        "threads": THREADS,
    }
    parser = parser_of("training_loop", __doc__, **defaults)
    parser.add_argument(
        "--root", default="", metavar="FOLDER", help="CamVid's folder; default: the drawn street"
    )
    options = parser.parse_args(arguments)
    recipe = Recipe(
        network=options.network,
        dataset="camvid" if options.root else "street",
        epochs=1,
        crop_size=(240, 320),
        schedule="constant",
        color_jitter=0.1,
    )
    prepare_arithmetic(recipe, options.threads)
    about = {"dataset": recipe.dataset, "crop": "240x320", "batch_size": recipe.batch_size}
    settings = settings_of(options, **about)
    record = Record("training_loop", settings, arguments)
    dataset = open_dataset(recipe.dataset, options.root, "train")
    rows = []
    for kind, make in KINDS.items():
        split = make(dataset, torch.device("cpu"), options.images)
        images = len(split) // recipe.batch_size * recipe.batch_size
        found = by_clock(KEYS, loop_and_bare(recipe, split, options.rounds + 1), images)
        rows += [{"data": kind, **row} for row in found]
    record.finish(rows, options.output, SHOWN)


def _line(record: Row) -> str:
    ratio = {row["data"]: row["ratio"] for row in record["results"] if row["clock"] == "wall"}
    return (
        f"The training loop keeps {ratio['memory']:.2f} of the bare steps' images per second with "
        f"{record['settings']['dataset']} in memory, and {ratio['stream']:.2f} when it streams "
        "from the disk."
    )


SHOWN = shown.one_table(
    "training_loop",
    {
        "Data": "{data}",
        "Clock": "{clock}",
        "Loop, images/s": shown.rate("loop_s_per_image"),
        "Bare steps, images/s": shown.rate("bare_s_per_image"),
        "Ratio": "{ratio:.2f}",
    },
    line=_line,
)


if __name__ == "__main__":
    end_with(main)
