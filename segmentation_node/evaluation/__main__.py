"""``python -m segmentation_node.evaluation dataset --model M --dataset D --root R --split S``."""

import argparse
import sys
from functools import partial
from typing import Any, List, Optional

from segmentation_node.backends import BACKENDS, BackendOptions, choose_backend, open_backend
from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation import report
from segmentation_node.evaluation.dataset import evaluate_dataset
from segmentation_node.evaluation.datasets import DATASETS, open_dataset
from segmentation_node.model_card import find_model, read_card
from segmentation_node.models import models_folder
from segmentation_node.pipeline import Segmenter


def evaluate(arguments: argparse.Namespace) -> None:
    """Score a model on one split and print, and optionally write, the figures."""
    dataset = open_dataset(
        arguments.dataset, arguments.root, arguments.split, with_instances=arguments.iiou
    )
    card = read_card(find_model(arguments.model, models_folder()))
    options = BackendOptions(
        arguments.device, arguments.precision, arguments.num_threads, arguments.engine_dir
    )
    name = choose_backend(card, options)[0] if arguments.backend == "auto" else arguments.backend
    with open_backend(name, card, options) as backend:
        for line in backend.warnings:
            print("warning: %s" % line, file=sys.stderr)
        evaluation = evaluate_dataset(Segmenter(backend), dataset, progress=_progress(len(dataset)))
        device = backend.device
    print(report.accuracy_table(evaluation))
    print()
    if evaluation.level.is_class_level:
        print(report.category_table(evaluation))
    else:
        print("label sets differ: compared on Cityscapes' 7 categories")
    print()
    print(report.latency_table(evaluation.as_json()["stages_ms"]))
    if arguments.json:
        content = evaluation.as_json()
        content.update(
            model=card.name,
            dataset=arguments.dataset,
            split=arguments.split,
            backend=name,
            device=device,
        )
        report.write_json(arguments.json, content)


def _progress(frames: int) -> Any:
    from tqdm import tqdm

    return partial(tqdm, total=frames, unit="frame", disable=None)


def parse(arguments: Optional[List[str]]) -> argparse.Namespace:
    """The command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="segmentation_node.evaluation")
    commands = parser.add_subparsers(dest="command")
    commands.required = True
    dataset = commands.add_parser("dataset", help="score a model on a split of a data set")
    dataset.set_defaults(run=evaluate)
    dataset.add_argument("--model", required=True, help="a model folder, or a shipped model's name")
    dataset.add_argument("--dataset", required=True, choices=sorted(DATASETS))
    dataset.add_argument("--root", default="", help="the data set's folder")
    dataset.add_argument("--split", default="val")
    dataset.add_argument(
        "--no-iiou",
        dest="iiou",
        action="store_false",
        help="leave out iIoU and with it the data set's instance files",
    )
    dataset.add_argument("--json", help="also write the figures to this file")
    dataset.add_argument("--backend", default="auto", choices=["auto"] + sorted(BACKENDS))
    dataset.add_argument("--device", default="auto")
    dataset.add_argument("--precision", default="fp32")
    dataset.add_argument("--num-threads", type=int, default=0)
    dataset.add_argument("--engine-dir", default=BackendOptions().engine_dir)
    return parser.parse_args(arguments)


def main(arguments: Optional[List[str]] = None) -> int:
    """Run a command; a known error is one line and exit code 1."""
    parsed = parse(arguments)
    try:
        parsed.run(parsed)
    except SegmentationError as error:
        print("error: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
