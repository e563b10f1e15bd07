"""``python -m benchmarks.evaluation_speed``: what reading and scoring cost beside the network.

Scores frames as ``evaluation dataset`` does and, in turn with it, runs the backend alone on one
image that is ready in memory, on all cores. The ratio of the two rates is the share of the
evaluation that the network gets. With ``--jobs`` it may exceed 1: images beside each other waste
less than the threads of one.
"""

from collections.abc import Sequence
from typing import Any

import cv2

from benchmarks import MODEL, end_with, shown
from benchmarks.options import parser_of, settings_of, size_text
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import by_clock
from segmentation_node.evaluation.commands.options import (
    add_jobs_option,
    add_model_options,
    open_segmenter,
    open_segmenters,
)
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.geometry import WHOLE_IMAGE
from segmentation_node.pipeline import Segmenter


def measure(
    segmenters: Sequence[Segmenter], alone_on: Segmenter, dataset: Dataset, count: int, rounds: int
) -> list[Row]:
    """Seconds a frame of the whole path and of the backend alone."""
    first, *beside = segmenters
    batch, height, width = alone_on.backend.input_shape[:3]
    image = cv2.resize(dataset[0].image_hwc, (width, height))[None].repeat(batch, axis=0)

    def infer() -> None:
        for _ in range(count):
            alone_on.backend.run(image)

    def score() -> None:
        evaluate_dataset(first, dataset, range(count), beside=beside)

    keys = ("evaluation_s_per_frame", "backend_s_per_frame")
    progress = progress_bar(rounds + 1)(range(rounds + 1))
    return by_clock(keys, ((score, infer) for _ in progress), count)


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, print."""
    defaults: dict[str, Any] = {"dataset": "camvid", "root": "", "split": "val"}
    defaults.update(frames=60, rounds=5)
    parser = parser_of("evaluation_speed", __doc__, **defaults)
    add_model_options(parser, required=False)
    parser.set_defaults(model=MODEL)
    add_jobs_option(parser)
    options = parser.parse_args(arguments)
    dataset = open_dataset(options.dataset, options.root, options.split)
    count = min(options.frames, len(dataset))
    settings = settings_of(options, frames=count)
    record = Record("evaluation_speed", settings, arguments)
    with (
        open_segmenter(options, WHOLE_IMAGE) as alone_on,
        open_segmenters(options, WHOLE_IMAGE) as segmenters,
    ):
        settings["input_size"] = size_text(alone_on.card.input_size)
        results = measure(segmenters, alone_on, dataset, count, options.rounds)
    record.finish(results, options.output, SHOWN)


def _line(record: Row) -> str:
    settings, row = record["settings"], record["results"][0]
    jobs = settings.get("jobs", 1)
    at_a_time = f", {jobs} images at a time," if jobs > 1 else ""
    return (
        f"Evaluating `{settings['model']}` on {settings['dataset']} {settings['split']}{at_a_time} "
        f"reaches {row['ratio']:.2f} of the backend's bare frames per second: "
        f"{1 / row['evaluation_s_per_frame']:.1f} against {1 / row['backend_s_per_frame']:.1f}."
    )


SHOWN = shown.one_table(
    "evaluation_speed",
    {
        "Clock": "{clock}",
        "Evaluation, frames/s": shown.rate("evaluation_s_per_frame"),
        "Backend alone, frames/s": shown.rate("backend_s_per_frame"),
        "Ratio": "{ratio:.2f}",
    },
    line=_line,
)


if __name__ == "__main__":
    end_with(main)
