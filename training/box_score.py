"""How good a model's boxes are, beside those of its class maps' connected areas.

``python -m training.box_score models/elu_squeezenet_street --dataset street --split test``
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code
from segmentation_node.evaluation.commands.options import add_data_options, add_split_option
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.report.text import table
from segmentation_node.evaluation.run.detection_scores import DetectionScores
from segmentation_node.evaluation.run.true_boxes import boxes_of_instances
from segmentation_node.model_card import ModelCard, read_card
from segmentation_node.pipeline import Segmenter, open_segmenter
from training.box_samples import open_numbered
from training.errors import TrainingError


def score_boxes(card: ModelCard, dataset: Dataset) -> dict[str, DetectionScores]:
    """Scores of the box head and of the connected areas, of the shipped files on ONNX Runtime.

    Raises TrainingError where there is no head, or the data set numbers nothing of its classes.
    """
    if card.boxes is None:
        raise TrainingError(
            f"model {card.name} has no box head; give it one with: python3 -m training.boxes "
            f"{card.folder}"
        )
    names = card.boxes.classes
    unknown = [name for name in names if name not in dataset.instance_classes]
    if unknown:
        raise TrainingError(
            f"{card.name} finds {', '.join(unknown)}, of which the data set numbers no instances; "
            f"it numbers {', '.join(dataset.instance_classes)}"
        )
    true_ids = [dataset.label_set.names.index(name) for name in names]
    with open_segmenter(card, "onnxruntime") as segmenter:
        segmenter.batch.open_boxes()
        finders = {
            "box_head": Segmenter(segmenter.batch),
            "components": Segmenter(segmenter.batch, detected=names),
        }
        scores = {key: DetectionScores(card.labels, dataset.label_set, names) for key in finders}
        for frame in (dataset[index] for index in range(len(dataset))):
            assert frame.instances_hw is not None and frame.truth_hw is not None
            true = boxes_of_instances(frame.instances_hw, frame.truth_hw, true_ids)
            for finder in finders.values():
                finder.prepare(frame.image_hwc)
            prediction = segmenter.batch.run(with_confidence=True, with_features=True)
            for key, finder in finders.items():
                maps = finder.finish(prediction, with_confidence=True)
                proposals = finder.proposals(prediction) if finder.finds_by_head else None
                scores[key].add(true, finder.detect(*maps, prediction), proposals)
    return scores


def card_figures(scores: dict[str, DetectionScores]) -> dict[str, Any]:
    """The figures that a card's box head has."""
    ap_50 = {key: found.as_json()["ap_coco"]["ap50"] for key, found in scores.items()}
    return {
        "frames": scores["box_head"].frames,
        "ap_50": round(ap_50["box_head"], 4),
        "ap_50_components": round(ap_50["components"], 4),
    }


def score_table(scores: dict[str, DetectionScores]) -> str:
    """Both ways' figures, in percent, one a line."""
    columns = {key: _flat(found.as_json()) for key, found in scores.items()}
    rows = []
    for name in next(iter(columns.values())):
        values = [column[name] for column in columns.values()]
        texts = ["n/a" if value is None else f"{100 * value:.1f}" for value in values]
        rows.append([name, *texts])
    return table(["", *columns], rows)


def _flat(figures: dict[str, Any], prefix: str = "") -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for key, value in figures.items():
        if isinstance(value, dict):
            flat.update(_flat(value, f"{prefix}{key} "))
        elif prefix != "true_boxes ":
            flat[f"{prefix}{key}".strip()] = value
    return flat


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and score; a known error is one line and exit code 1."""
    parser = CommandParser(
        prog="python3 -m training.box_score",
        description="""
Score the boxes of a model's box head, beside those of its class maps' connected areas.""",
        examples="%(prog)s models/elu_squeezenet_street --dataset street --split test",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder, with a box head")
    add_data_options(parser)
    add_split_option(parser, default="test")
    options = parser.parse_args(arguments)

    def score() -> int:
        dataset = open_numbered(options.dataset, options.root, options.split)
        scores = score_boxes(read_card(str(options.model)), dataset)
        print(f"{scores['box_head'].frames} frames, percent")
        print(score_table(scores))
        return 0

    return exit_code(score)


if __name__ == "__main__":
    sys.exit(main())
