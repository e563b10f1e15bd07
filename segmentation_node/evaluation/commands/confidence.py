"""``confidence``: measure how sure a model is on validation data, and write that on its card.

``--temperature`` changes that first, in the graphs and on the card, so that the model is right as
often as it says. A node warns when what it sees makes the model much less, or much more, sure.
"""

import argparse
import os
from typing import Any

from segmentation_node.errors import CardError
from segmentation_node.evaluation.commands.options import (
    add_data_options,
    add_model_options,
    add_split_option,
    open_segmenter,
    temperature,
)
from segmentation_node.evaluation.commands.output import progress_bar
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.evaluation.offline import measure_confidence
from segmentation_node.evaluation.temperature import FIT, LEAST, MOST, put_temperature
from segmentation_node.geometry import WHOLE_IMAGE
from segmentation_node.model_card import CARD_FILE, open_model


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "confidence",
        help="write on a model's card how sure it is on validation data",
        description="""
Measure how sure a model is on data that it was not trained on, and write that
on its card: a node warns when it sees something else. With --temperature the
confidence itself is changed first; class maps stay as they are.""",
        examples="""
%(prog)s --model models/mine --dataset camvid --root CAMVID
%(prog)s --model models/mine --dataset street --temperature fit
""",
    )
    parser.set_defaults(run=run)
    add_model_options(parser)
    add_data_options(parser)
    add_split_option(parser, "one that the model was not trained on")
    parser.add_argument(
        "--temperature",
        type=temperature,
        metavar="T",
        help="divide the scores by T before the softmax, in all graphs of the folder: a number "
        "from %g to %g, 1 takes it away; %r: that under which this split's labels are likeliest"
        % (LEAST, MOST, FIT),
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure, print and write; gives the exit code."""
    # Cards are written where networks are trained or imported: Python 3.11.
    from segmentation_node.importing.model_folder import confidence_entry, put_on_card

    card = open_model(arguments.model)
    if "confidence" not in card.outputs:
        raise CardError("model %s gives no confidence to measure" % card.name)
    dataset = open_dataset(arguments.dataset, arguments.root, arguments.split)
    if arguments.temperature is not None:
        progress = progress_bar(len(dataset))
        print(put_temperature(card.folder, arguments.temperature, dataset, progress))
    with open_segmenter(arguments, WHOLE_IMAGE) as segmenter:
        found = measure_confidence(segmenter, dataset, progress_bar(len(dataset)))
        entry = confidence_entry(found, segmenter.card.temperature)
    put_on_card(card.folder, confidence=entry)
    print(
        "%s: confidence %.4f, deviation %.4f, unlabelled %.4f on %s %s"
        % (
            os.path.join(card.folder, CARD_FILE),
            found.mean,
            found.deviation,
            found.unlabelled_share,
            arguments.dataset,
            arguments.split,
        )
    )
    return 0
