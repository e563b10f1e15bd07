"""Play a bag or a data set into the node and count what comes back."""

import argparse
import sys
from typing import Any, Callable

from segmentation_node.evaluation.live.node import (
    READY_TIMEOUT_S,
    base_topic,
    facts,
    node_of,
    predicted_labels,
    target_name,
)
from segmentation_node.evaluation.live.played import LiveSource, open_source
from segmentation_node.evaluation.live.scorer import LiveScorer, played_stages
from segmentation_node.evaluation.run.run import Run

Finish = Callable[[Run, Callable[[], None], Any], int]


def play(arguments: argparse.Namespace, progress: Callable[[Any], Any], finish: Finish) -> int:
    """Start or find the node, and give ``finish`` the run, what fills it, and the pairing.

    ``progress`` makes a bar for a number of frames. Gives what ``finish`` gives.
    """
    from segmentation_node.evaluation.live.replay import Replay

    target = target_name(arguments)
    with open_source(arguments) as source:
        base = base_topic(source.image_topic)
        topic = base + "/compressed" if source.compressed else base
        replay = Replay(
            target,
            # A running node takes its images where it does.
            "" if arguments.node else topic,
            with_overlay=False,
            compressed=source.compressed,
            # Recorded outputs of a node must not mix with this one's.
            other_topics={
                name: kind
                for name, kind in source.other_topics.items()
                if not name.startswith(target + "/")
            },
            with_clock=arguments.sim_time,
            quiet_s=arguments.timeout,
        )
        try:
            with node_of(arguments, replay, base, source.compressed) as (process, pids):
                replay.wait_until_ready(process, READY_TIMEOUT_S)
                run = Run(
                    predicted_labels(replay.status),
                    source.truth,
                    dict(facts(arguments, replay.status), **_how(arguments, source)),
                    source.instance_classes,
                )

                def fill() -> None:
                    bar = progress(source.length)
                    with LiveScorer(run, arguments.strict, bar, pids) as scorer:
                        _fill(arguments, source, replay, process, scorer)

                return finish(run, fill, replay.pairing)
        finally:
            replay.destroy_node()


def _fill(
    arguments: argparse.Namespace,
    source: LiveSource,
    replay: Any,
    process: Any,
    scorer: LiveScorer,
) -> None:
    replay.on_result = lambda item: scorer.take(item, item.payload, played_stages(item))
    replay.on_lost = lambda item, reason: scorer.lose(item.payload.name, reason)
    try:
        replay.play(
            scorer.playable(source.items),
            process,
            rate_hz=arguments.hz,
            in_flight=arguments.in_flight,
            factor=arguments.rate,
        )
    finally:
        scorer.note(repeated_stamps=replay.repeated_stamps, bag_problems=source.warnings())
        for line in source.warnings():
            print("warning: " + line, file=sys.stderr)


def _how(arguments: argparse.Namespace, source: LiveSource) -> dict:
    how = dict(source.facts, in_flight=arguments.in_flight)
    if arguments.rate:
        how["rate"] = arguments.rate
    if arguments.hz:
        how["hz"] = arguments.hz
    if arguments.sim_time:
        how["sim_time"] = True
    return how
