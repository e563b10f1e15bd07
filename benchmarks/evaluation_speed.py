"""What reading, decoding and scoring cost ``evaluation dataset`` beside the network.

``python -m benchmarks.evaluation_speed --model elu_squeezenet_camvid --dataset camvid --root R``
scores frames as the command does and, in turn with it, runs the backend alone on one image that
is ready in memory. The ratio of the two rates is the share of the evaluation that the network
gets.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2

from benchmarks.record import RESULTS, Record
from segmentation_node.evaluation.commands.options import add_model_options, open_segmenter
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.evaluation.report import table
from segmentation_node.pipeline import Segmenter

LEAST_RATIO = 0.85
WARM_UP_RUNS = 3


def measure(
    segmenter: Segmenter, dataset: Dataset, frames: int, rounds: int
) -> list[dict[str, Any]]:
    """Seconds a frame of the whole path and of the backend alone, in alternating rounds.

    The ratio is the median over the rounds: each compares what ran one right after the other.
    """
    batch, height, width = segmenter.backend.input_shape[:3]
    image = cv2.resize(dataset[0].image_hwc, (width, height))[None].repeat(batch, axis=0)
    count = min(frames, len(dataset))

    def score() -> None:
        evaluate_dataset(segmenter, dataset, range(count))

    def infer() -> None:
        for _ in range(count):
            segmenter.backend.run(image)

    for _ in range(WARM_UP_RUNS):
        segmenter.backend.run(image)
    whole, alone = [], []
    for _ in progress_bar(rounds)(range(rounds)):
        alone.append(_seconds_per_frame(infer, count))
        whole.append(_seconds_per_frame(score, count))
    pairs = list(zip(whole, alone, strict=True))
    return [
        {
            "clock": clock,
            "evaluation_s_per_frame": statistics.median(pair[0][index] for pair in pairs),
            "backend_s_per_frame": statistics.median(pair[1][index] for pair in pairs),
            "ratio": statistics.median(pair[1][index] / pair[0][index] for pair in pairs),
            "ratios": [round(pair[1][index] / pair[0][index], 4) for pair in pairs],
        }
        for index, clock in enumerate(("wall", "cpu"))
    ]


def _seconds_per_frame(work: Callable[[], None], frames: int) -> tuple[float, float]:
    """Wall and CPU time."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return (time.perf_counter() - wall_s) / frames, (time.process_time() - cpu_s) / frames


def summary(results: list[dict[str, Any]]) -> str:
    """The results as a table."""
    rows = [
        [
            found["clock"],
            f"{1 / found['evaluation_s_per_frame']:.2f}",
            f"{1 / found['backend_s_per_frame']:.2f}",
            f"{found['ratio']:.3f}",
        ]
        for found in results
    ]
    return table(["clock", "evaluation frames/s", "backend alone frames/s", "ratio"], rows)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table, write benchmarks/results/evaluation_speed.json."""
    parser = argparse.ArgumentParser(prog="benchmarks.evaluation_speed", description=__doc__)
    add_model_options(parser)
    parser.add_argument("--dataset", default="camvid")
    parser.add_argument("--root", default="")
    parser.add_argument("--split", default="val")
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "evaluation_speed.json")
    options = parser.parse_args(arguments)
    dataset = open_dataset(options.dataset, options.root, options.split)
    settings = {
        "model": options.model,
        "dataset": options.dataset,
        "split": options.split,
        "frames": min(options.frames, len(dataset)),
        "rounds": options.rounds,
        "least_ratio": LEAST_RATIO,
    }
    record = Record("evaluation_speed", settings, arguments)
    with open_segmenter(options) as segmenter:
        size = segmenter.card.input
        settings["input_size"] = f"{size.width}x{size.height}"
        results = measure(segmenter, dataset, options.frames, options.rounds)
    print(summary(results))
    record.write(results, options.output)


if __name__ == "__main__":
    main()
