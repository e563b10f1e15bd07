"""``python -m benchmarks.boxes``: what a box head adds to a frame, and a step of its training.

Image to class map, and image to class map and boxes, in turns, over frames of streets that training
has not seen. The training step is that of ``training.boxes``: so many frames whose features are
kept, forward, backward and one step of the optimiser; the encoder sees a frame once in all.
"""

from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch

from benchmarks import end_with, shown
from benchmarks.options import THREADS, installed, parser_of, settings_of, size_text
from benchmarks.record import Record
from benchmarks.shown import Row
from benchmarks.timing import take_turns
from segmentation_node.backends import BackendOptions
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.model_card import ModelCard, open_model
from segmentation_node.networks.box_head import build_box_head
from segmentation_node.pipeline import Segmenter, open_batch
from training.box_samples import read_samples
from training.boxes import FRAMES_A_STEP, HEAD, PROPOSALS, train_head
from training.graphs import graph_of_card
from training.network_images import spread

RUN_TIMES = ["onnxruntime", "openvino", "torch"]


def measure(
    card: ModelCard, run_time: str, images: list[np.ndarray], threads: int, rounds: int
) -> Row:
    """The row of one run time; ratios are of one round, and their median is taken."""
    batch = open_batch(card, run_time, BackendOptions("cpu", num_threads=threads))
    batch.open_boxes()
    turn = cycle(images)
    with Segmenter(batch) as segmenter:
        runs: dict[str, Callable[[], object]] = {
            "plain": lambda: segmenter.segment(next(turn)),
            "boxes": lambda: segmenter.segment(next(turn), with_boxes=True),
        }
        times_ms = take_turns(runs, rounds, len(images))
        finder = batch.box_finder
        assert finder is not None
        segmenter.prepare(images[0])
        prediction = batch.run(False, with_features=True)
        class_map_hw, features = prediction.class_map_nhw[0], prediction.features_nchw
        assert features is not None
        parts: dict[str, Callable[[], object]] = {
            "host": lambda: finder.propose(class_map_hw),
            "find": lambda: finder.find(class_map_hw, features),
        }
        parts_ms = take_turns(parts, rounds, len(images))
    by_round = {
        name: np.median(np.reshape(found, (rounds, -1)), axis=1) for name, found in times_ms.items()
    }
    return {
        "run_time": run_time,
        "image": size_text(card.input_size),
        "plain_ms": float(np.median(times_ms["plain"])),  # image to class map
        "with_boxes_ms": float(np.median(times_ms["boxes"])),  # image to class map and boxes
        "added": float(np.median(by_round["boxes"] / by_round["plain"]) - 1.0),  # share
        "proposals_ms": float(np.median(parts_ms["host"])),  # made on the host
        # Proposals, head, decoding, suppression.
        "find_ms": float(np.median(parts_ms["find"])),
    }


def measure_training(card: ModelCard, frames: int, threads: int) -> Row:
    """The row of the detector's training."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    assert card.boxes is not None
    training = open_dataset("street", "", "train", with_instances=True)
    class_ids = card.labels.ids_of(card.boxes.classes)
    graph = graph_of_card(card)
    head = build_box_head(len(class_ids), HEAD, graph.network)
    samples = list(read_samples(graph, card, training, range(frames), class_ids, head.strides))
    for sample in samples:
        sample.propose([card.boxes.shapes[name] for name in card.boxes.classes], PROPOSALS)
    image = torch.zeros((1, *card.input_size, 3), dtype=torch.uint8)
    graph.box_head = None
    epochs = train_head(head, samples, 10**6)
    with torch.inference_mode():
        encoder_ms = take_turns({"encoder": lambda: graph(image)}, 3, 3)["encoder"]
    epoch_ms = take_turns({"epoch": lambda: next(epochs)}, 1, 5)["epoch"]
    steps = -(-frames // FRAMES_A_STEP)
    return {
        "frames_a_step": FRAMES_A_STEP,
        "network_ms": float(np.median(encoder_ms)),  # a frame, which training sees once
        "step_ms": float(np.median(epoch_ms)) / steps,
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, print."""
    defaults = {"model": "elu_squeezenet_street", "run_times": RUN_TIMES, "frames": 10}
    choices = {"run_times": RUN_TIMES}
    parser = parser_of("boxes", __doc__, choices, **defaults, rounds=5, threads=THREADS)
    options = parser.parse_args(arguments)
    card = open_model(options.model)
    run_times = installed({name: name for name in options.run_times})
    record = Record("boxes", settings_of(options), arguments)
    street = open_dataset("street", "", "test")
    images = [street[index].image_hwc for index in spread(len(street), options.frames)]
    rows = [measure(card, name, images, options.threads, options.rounds) for name in run_times]
    rows.append(measure_training(card, options.frames, options.threads))
    record.finish(rows, options.output, SHOWN)


def _line(record: Row) -> str:
    rows = [row for row in record["results"] if "added" in row]
    least, most = (100 * pick(row["added"] for row in rows) for pick in (min, max))
    (step,) = [row for row in record["results"] if "step_ms" in row]
    return (
        f"Boxes add {least:.0f} to {most:.0f} % to a frame of {rows[0]['image']}; a training step "
        f"of {step['frames_a_step']} frames takes {step['step_ms']:.0f} ms, the network alone "
        f"{step['network_ms']:.0f} ms a frame in the same PyTorch."
    )


SHOWN = shown.Shown(
    tables={
        "boxes": shown.columns(
            {
                "Run time": shown.run_time,
                "Image": "{image}",
                "Class map": "{plain_ms:.1f} ms",
                "With boxes": "{with_boxes_ms:.1f} ms",
                "Added": "{added:.0%}",
                "Proposals": "{proposals_ms:.1f} ms",
                "Proposals, head, boxes": "{find_ms:.1f} ms",
            },
            where=lambda row: "added" in row,
        )
    },
    line=_line,
)


if __name__ == "__main__":
    end_with(main)
