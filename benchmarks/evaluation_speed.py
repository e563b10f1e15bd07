"""What reading, decoding and scoring cost ``evaluation dataset`` beside the network.

``python -m benchmarks.evaluation_speed --model elu_squeezenet_camvid --dataset camvid --root R``
scores frames as the command does and, in turn with it, runs the backend alone on one image that
is ready in memory, on all cores. The ratio of the two rates is the share of the evaluation that the
network gets. With ``--jobs`` it may exceed 1: images beside each other waste less than the threads
of one.
"""

from collections.abc import Sequence
from typing import Any, TypedDict

import cv2

from benchmarks import shown
from benchmarks.options import parser_of
from benchmarks.record import Record
from benchmarks.timing import by_clock, wall_and_cpu_s
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

LEAST_RATIO = 0.85
WARM_UP_RUNS = 3


def measure(
    segmenters: Sequence[Segmenter],
    alone_on: Segmenter,
    dataset: Dataset,
    frames: int,
    rounds: int,
) -> list[dict[str, Any]]:
    """Seconds a frame of the whole path and of the backend alone, in alternating rounds.

    The ratio is the median over the rounds: each compares what ran one right after the other.
    """
    first, *beside = segmenters
    batch, height, width = alone_on.backend.input_shape[:3]
    image = cv2.resize(dataset[0].image_hwc, (width, height))[None].repeat(batch, axis=0)
    count = min(frames, len(dataset))

    def score() -> None:
        evaluate_dataset(first, dataset, range(count), beside=beside)

    def infer() -> None:
        for _ in range(count):
            alone_on.backend.run(image)

    for _ in range(WARM_UP_RUNS):
        alone_on.backend.run(image)
    whole, alone = [], []
    for _ in progress_bar(rounds)(range(rounds)):
        alone.append(wall_and_cpu_s(infer))
        whole.append(wall_and_cpu_s(score))
    return by_clock("evaluation_s_per_frame", whole, "backend_s_per_frame", alone, count)


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, print."""
    parser = parser_of("evaluation_speed", __doc__)
    add_model_options(parser)
    add_jobs_option(parser)
    add = parser.add_argument
    add("--dataset", default="camvid")
    add("--root", default="")
    add("--split", default="val")
    add("--frames", type=int, default=60)
    add("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    dataset = open_dataset(options.dataset, options.root, options.split)
    kept = ("model", "dataset", "split", "rounds", "jobs")
    settings = {name: getattr(options, name) for name in kept}
    settings.update(frames=min(options.frames, len(dataset)), least_ratio=LEAST_RATIO)
    record = Record("evaluation_speed", settings, arguments)
    with (
        open_segmenter(options, WHOLE_IMAGE) as alone_on,
        open_segmenters(options, WHOLE_IMAGE) as segmenters,
    ):
        size = alone_on.card.input
        settings["input_size"] = f"{size.width}x{size.height}"
        results = measure(segmenters, alone_on, dataset, options.frames, options.rounds)
    record.finish(results, options.output, SHOWN)


class Row(TypedDict):
    """By one clock."""

    clock: str  # wall or cpu
    evaluation_s_per_frame: float  # reading, decoding, network, scoring
    backend_s_per_frame: float  # the network alone
    ratio: float  # median over rounds of the evaluation's rate over the network's
    ratios: list[float]  # by round


def _line(record: dict[str, Any]) -> str:
    settings, row = record["settings"], record["results"][0]
    jobs = settings.get("jobs", 1)
    at_a_time = f", {jobs} images at a time," if jobs > 1 else ""
    return (
        f"Evaluating `{settings['model']}` on {settings['dataset']} {settings['split']}{at_a_time} "
        f"reaches {row['ratio']:.2f} of the backend's bare frames per second: "
        f"{1 / row['evaluation_s_per_frame']:.1f} against {1 / row['backend_s_per_frame']:.1f}."
    )


SHOWN = shown.Shown(
    rows={"": Row},
    tables={
        "evaluation_speed": shown.columns(
            {
                "Clock": "{clock}",
                "Evaluation, frames/s": shown.rate("evaluation_s_per_frame"),
                "Backend alone, frames/s": shown.rate("backend_s_per_frame"),
                "Ratio": "{ratio:.2f}",
            }
        )
    },
    line=_line,
)


if __name__ == "__main__":
    main()
