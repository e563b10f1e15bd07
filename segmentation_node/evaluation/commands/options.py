"""Options that several commands share."""

import argparse
from contextlib import contextmanager
from typing import Iterator

from segmentation_node.backends import BACKENDS, BackendOptions, choose_backend, open_backend
from segmentation_node.model_card import find_model, read_card
from segmentation_node.models import models_folder
from segmentation_node.pipeline import Segmenter


def add_model_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Which model runs, and on what."""
    parser.add_argument(
        "--model", required=required, help="a model folder, or a shipped model's name"
    )
    parser.add_argument("--backend", default="auto", choices=["auto"] + sorted(BACKENDS))
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--num-threads", type=int, default=0)


def add_output_options(parser: argparse.ArgumentParser) -> None:
    """Where the figures go, and what ends a run."""
    parser.add_argument("--json", help="also write the figures to this file")
    parser.add_argument("--html", help="also write a page with figures, charts and pictures")
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end at the first frame that cannot be read or segmented, instead of skipping it",
    )


@contextmanager
def open_segmenter(arguments: argparse.Namespace) -> Iterator[Segmenter]:
    """The pipeline that ``add_model_options`` asks for, closed in the end."""
    card = read_card(find_model(arguments.model, models_folder()))
    name = choose_backend(card)[0] if arguments.backend == "auto" else arguments.backend
    options = BackendOptions(arguments.device, arguments.precision, arguments.num_threads)
    with open_backend(name, card, options) as backend:
        yield Segmenter(backend)
