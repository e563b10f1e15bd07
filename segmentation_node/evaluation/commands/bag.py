"""``bag``: score a model on a recorded drive, or the predictions that were recorded in it."""

import argparse
import sys
from contextlib import closing
from typing import Any, Dict

from segmentation_node.errors import BagError
from segmentation_node.evaluation.commands.lazily import import_bags
from segmentation_node.evaluation.commands.options import (
    add_model_options,
    add_output_options,
    open_segmenter,
)
from segmentation_node.evaluation.commands.output import counted, progress_bar
from segmentation_node.evaluation.offline import score_frames
from segmentation_node.evaluation.run.provenance import environment_facts, run_facts
from segmentation_node.evaluation.run.run import Run
from segmentation_node.labels import LABEL_SETS


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "bag",
        help="score a model, or recorded predictions, on a bag",
        description="With --model the bag's images go through the pipeline, without a ROS graph. "
        "Without it the class maps that the bag holds are scored.",
    )
    parser.set_defaults(run=run)
    parser.add_argument("bag", metavar="BAG", help="the bag's folder, or its .mcap or .db3 file")
    add_model_options(parser, required=False)
    add_topic_options(parser)
    add_output_options(parser)


def add_topic_options(parser: argparse.ArgumentParser) -> None:
    """Which topics of a bag are meant; by default those that stand out."""
    parser.add_argument("--image-topic", metavar="TOPIC", help="default: the bag's one camera")
    parser.add_argument(
        "--truth-topic", metavar="TOPIC", help="default: /ground_truth; '' leaves it out"
    )
    parser.add_argument(
        "--prediction-topic", metavar="TOPIC", help="without --model; default: .../class_map"
    )
    parser.add_argument(
        "--labels",
        choices=sorted(LABEL_SETS),
        help="label set of the ground truth, where no LabelInfo in the bag says it",
    )
    parser.add_argument(
        "--prediction-labels",
        choices=sorted(LABEL_SETS),
        help="the same of recorded predictions",
    )


def run(arguments: argparse.Namespace) -> int:
    """Score, print, and optionally write, the figures; gives the exit code."""
    bags = import_bags()
    with bags.open_bag(arguments.bag, arguments.strict) as bag:
        if arguments.model:
            return _through_the_pipeline(bag, arguments)
        return _recorded(bag, arguments)


def _through_the_pipeline(bag: Any, arguments: argparse.Namespace) -> int:
    from segmentation_node.evaluation import sources as scoring

    topics = bag.choose_topics(arguments.image_topic, arguments.truth_topic, "")
    _require(bag, topics.image, "camera image", "--image-topic")
    truth = scoring.label_set_for(bag, topics.truth, arguments.labels)
    with open_segmenter(arguments) as segmenter:
        facts = dict(run_facts(segmenter), **scoring.bag_facts(bag, topics))
        result = Run(segmenter.card.labels, truth, facts)

        def score() -> None:
            with closing(scoring.input_frames(bag, topics)) as frames:
                progress = progress_bar(topics.image.count)
                score_frames(segmenter, progress(frames), result, arguments.strict)

        return _counted(bag, topics, result, score, arguments)


def _recorded(bag: Any, arguments: argparse.Namespace) -> int:
    from segmentation_node.evaluation import sources as scoring

    topics = bag.choose_topics(
        arguments.image_topic, arguments.truth_topic, arguments.prediction_topic
    )
    _require(bag, topics.prediction, "recorded class map", "--model, or --prediction-topic")
    _require(bag, topics.truth, "ground truth", "--truth-topic")
    truth = scoring.label_set_for(bag, topics.truth, arguments.labels)
    predicted = scoring.label_set_for(
        bag, topics.prediction, arguments.prediction_labels, "--prediction-labels"
    )
    assert predicted is not None, "its topic was required"
    facts: Dict[str, Any] = dict(environment_facts(), **scoring.bag_facts(bag, topics))
    result = Run(predicted, truth, facts)

    def score() -> None:
        with closing(scoring.recorded_frames(bag, topics)) as frames:
            progress = progress_bar(topics.prediction.count)
            scoring.score_recorded(progress(frames), result, arguments.strict)

    return _counted(bag, topics, result, score, arguments)


def _counted(bag: Any, topics: Any, result: Run, score: Any, arguments: argparse.Namespace) -> int:
    from segmentation_node.evaluation import sources as scoring

    def score_and_warn() -> None:
        try:
            score()
        finally:
            found = scoring.warnings(bag, topics)
            result.source["bag_problems"] = found
            for line in found:
                print("warning: " + line, file=sys.stderr)

    return counted(result, score_and_warn, arguments)


def _require(bag: Any, topic: Any, what: str, option: str) -> None:
    from segmentation_node.evaluation.bags.frames import listed

    damage = "".join("; " + str(problem) for problem in bag.problems[:1])
    if topic is None:
        raise BagError(
            "%s: no %s found; %s names it; the bag has %s%s"
            % (bag.path, what, option, listed(bag.topics), damage)
        )
    if topic.count == 0:
        raise BagError("%s: no message on %s%s" % (bag.path, topic.name, damage))
