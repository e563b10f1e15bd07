"""What loading, augmenting and logging cost a training step on the CPU.

``python -m benchmarks.training_loop --root CAMVID`` runs the trainer's own loop and, in turn with
it, the same optimiser steps on one batch that is ready in memory. The ratio of the two rates is
the share of the loop that the network gets.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch

from benchmarks import shown
from benchmarks.options import parser_of
from benchmarks.record import Record
from benchmarks.timing import by_clock, wall_and_cpu_s
from segmentation_node.evaluation.datasets import open_dataset
from training.data import AnySplit, Split, StreamingSplit
from training.recipe import Recipe
from training.train import prepare_arithmetic
from training.trainer import Trainer

LEAST_RATIO = 0.9
KINDS: dict[str, Callable[..., AnySplit]] = {"memory": Split, "stream": StreamingSplit}


def measure(recipe: Recipe, split: AnySplit, rounds: int) -> list[dict[str, Any]]:
    """Seconds per image of the loop and of bare steps: medians over alternating rounds.

    CPU time counts what every thread used: it holds on a busy machine too, but charges for work
    that other cores would have done at the same time.
    """
    loop, bare = [], []
    for _ in range(rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(recipe, split, None, Path(folder))
            loop.append(wall_and_cpu_s(trainer.run))
        bare.append(wall_and_cpu_s(_bare_steps(trainer)))
    images = trainer.steps_per_epoch * recipe.batch_size
    # The first round also fills the caches of the thread pool and of oneDNN.
    return by_clock("loop_s_per_image", loop[1:], "bare_s_per_image", bare[1:], images)


def _bare_steps(trainer: Trainer) -> Callable[[], None]:
    """As many steps as the loop's, all on one augmented batch."""
    images, labels = next(trainer.train_split.batches([range(trainer.recipe.batch_size)]))
    ready = trainer.augment(images, labels, trainer.state.generator)

    def run() -> None:
        for _ in range(trainer.steps_per_epoch):
            trainer.train_step(*ready)

    return run


def main(arguments: list[str] | None = None) -> None:
    """Measure a split in memory and one that is streamed; write and print the ratios."""
    parser = parser_of("training_loop", __doc__)
    add = parser.add_argument
    add("--root", default="", help="CamVid's folder; without it the street drive")
    add("--network", default="elu_squeezenet")
    add("--images", type=int, default=48)
    add("--rounds", type=int, default=5)
    add("--threads", type=int)
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
    settings = {name: getattr(options, name) for name in ("network", "images", "rounds")}
    settings.update(dataset=recipe.dataset, crop="240x320", batch_size=recipe.batch_size)
    settings.update(threads=torch.get_num_threads(), least_ratio=LEAST_RATIO)
    record = Record("training_loop", settings, arguments)
    dataset = open_dataset(recipe.dataset, options.root, "train")
    rows = []
    for kind, make in KINDS.items():
        split = make(dataset, torch.device("cpu"), options.images)
        rows += [{"data": kind, **row} for row in measure(recipe, split, options.rounds)]
    record.finish(rows, options.output, SHOWN)


class Row(TypedDict):
    """A way to hold the data, by one clock."""

    data: str  # memory or stream
    clock: str  # wall or cpu
    loop_s_per_image: float  # the trainer's loop
    bare_s_per_image: float  # its steps on one batch that is ready
    ratio: float  # median over rounds of bare over loop
    ratios: NotRequired[list[float]]  # by round


def _line(record: dict[str, Any]) -> str:
    ratio = {row["data"]: row["ratio"] for row in record["results"] if row["clock"] == "wall"}
    return (
        f"The training loop keeps {ratio['memory']:.2f} of the bare steps' images per second with "
        f"{record['settings']['dataset']} in memory, and {ratio['stream']:.2f} when it streams "
        "from the disk."
    )


SHOWN = shown.Shown(
    rows={"": Row},
    tables={
        "training_loop": shown.columns(
            {
                "Data": "{data}",
                "Clock": "{clock}",
                "Loop, images/s": shown.rate("loop_s_per_image"),
                "Bare steps, images/s": shown.rate("bare_s_per_image"),
                "Ratio": "{ratio:.2f}",
            }
        )
    },
    line=_line,
)


if __name__ == "__main__":
    main()
