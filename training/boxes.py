"""Train a box head (Fast R-CNN) on a model's encoder, which stays as it is, and put it beside it.

``python -m training.boxes models/elu_squeezenet_street --dataset street --classes car person``
The data set has to number its instances. The encoder sees every image once; what it makes of it is
kept in memory (3 MB an image at 640x360), so that epochs take seconds. Class maps stay equal to the
bit: that is checked before anything is written.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code
from segmentation_node.evaluation.commands.options import add_data_options, add_split_option
from segmentation_node.model_card import read_card
from segmentation_node.networks.box_head import BoxHead, build_box_head
from training.arguments import whole
from training.box_export import put_beside
from training.box_samples import (
    Sample,
    class_ids_of,
    open_numbered,
    read_samples,
    shapes_of,
    targets_of,
)
from training.graphs import graph_of_card

FRAMES_A_STEP = 2
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-3
PROPOSALS = 192
HEAD = {"strides": [8, 16], "width": 24, "hidden": 192}
"""Options of ``networks.box_head.BoxHead``."""


def train_head(
    head: BoxHead, samples: Sequence[Sample], epochs: int, seed: int = 0
) -> Iterator[tuple[float, float]]:
    """Train in place; after each epoch the mean loss of the scores and of the boxes."""
    optimiser = torch.optim.AdamW(head.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = -(-len(samples) // FRAMES_A_STEP)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, total_steps=epochs * steps
    )
    rng = np.random.default_rng(seed)
    head.train()
    for _ in range(epochs):
        losses = []
        order = rng.permutation(len(samples))
        for step in range(steps):
            chosen = order[step * FRAMES_A_STEP :][:FRAMES_A_STEP]
            parts = torch.stack([frame_losses(head, samples[index], rng) for index in chosen])
            optimiser.zero_grad()
            parts.sum(dim=1).mean().backward()
            optimiser.step()
            schedule.step()
            losses.append(parts.detach().mean(dim=0))
        score_loss, box_loss = torch.stack(losses).mean(dim=0).tolist()
        yield score_loss, box_loss
    head.eval()


def frame_losses(head: BoxHead, sample: Sample, rng: np.random.Generator) -> torch.Tensor:
    """Girshick's two losses of one image, (2,): cross-entropy, smooth L1 of the things' deltas."""
    targets = targets_of(sample, rng)
    labels = torch.from_numpy(targets.labels)
    features = head.join({stride: stage.float() for stride, stage in sample.stages.items()})
    logits, deltas = head.logits(features, torch.from_numpy(targets.rois_xyxy))
    count = max(1, len(labels))  # an image may show nothing of these classes
    score_loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    is_thing = labels > 0
    own = deltas.unflatten(1, (-1, 4))[is_thing, labels[is_thing] - 1]
    wanted = torch.from_numpy(targets.deltas)[is_thing]
    box_loss = torch.nn.functional.smooth_l1_loss(
        own / head.delta_std, wanted / head.delta_std, reduction="sum"
    )
    return torch.stack((score_loss, box_loss)) / count


def train(options: argparse.Namespace) -> int:
    """The command."""
    torch.manual_seed(0)
    # Saturated ELUs make gradients so small that the CPU computes them many times slower.
    torch.set_flush_denormal(True)
    card = read_card(str(options.model))
    training = open_numbered(options.dataset, options.root, options.split)
    class_ids = class_ids_of(options.classes, training, card)
    graph = graph_of_card(card)
    head = build_box_head(len(class_ids), HEAD, graph.network)
    frames = np.linspace(0, len(training) - 1, min(options.frames, len(training))).astype(int)
    samples, started = [], time.monotonic()
    for sample in read_samples(graph, card, training, frames.tolist(), class_ids, head.strides):
        samples.append(sample)
        if len(samples) % 50 == 0 or len(samples) == len(frames):
            _tell(started, f"{len(samples)} of {len(frames)} images through the encoder")
    shapes = shapes_of(samples, options.classes)
    for sample in samples:
        sample.propose(shapes.values(), PROPOSALS)
    for epoch, losses in enumerate(train_head(head, samples, options.epochs), 1):
        _tell(started, "epoch %d: loss of scores %.3f, of boxes %.3f" % (epoch, *losses))
    boxes = {
        "classes": list(options.classes),
        "shapes": shapes,
        "proposals": PROPOSALS,
        "head": HEAD,
        "dataset": options.dataset,
        "split": options.test_split,
    }
    tested = open_numbered(options.dataset, options.root, options.test_split)
    put_beside(options.model, graph, head, boxes, tested)
    print(f"{options.model}: box head added")
    return 0


def _tell(started: float, what: str) -> None:
    print(f"{time.monotonic() - started:6.0f} s  {what}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and train; a known error is one line and exit code 1."""
    parser = CommandParser(
        prog="python3 -m training.boxes",
        description="""
Train a box head (Fast R-CNN) on a model's encoder, which stays as it is, and put it into the
model's folder. Class maps stay equal to the bit. Takes 3 MB of memory a frame at 640x360.""",
        examples="%(prog)s models/elu_squeezenet_street --dataset street --classes car person",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL", help="model folder; the head is put into it"
    )
    add_data_options(parser)
    add_split_option(parser, "what is trained on", "train")
    parser.add_argument(
        "--test-split",
        default="test",
        metavar="SPLIT",
        help="what the figures on the card are measured on",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        required=True,
        metavar="CLASS",
        help="which get boxes; the data set has to number their instances",
    )
    parser.add_argument(
        "--frames",
        type=whole(1),
        default=300,
        metavar="N",
        help="most frames that are trained on, evenly spread over the split",
    )
    parser.add_argument(
        "--epochs", type=whole(1), default=14, metavar="N", help="passes over these frames"
    )
    parser.add_argument(
        "--threads", type=whole(1), metavar="N", help="CPU threads; default: torch's"
    )
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    return exit_code(lambda: train(options))


if __name__ == "__main__":
    sys.exit(main())
