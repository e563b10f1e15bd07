"""Score a node that runs on images that are played into it, by us or by somebody else."""

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, Optional, Union

from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.live.listening import Listening
from segmentation_node.evaluation.live.pairing import Collector, Result
from segmentation_node.evaluation.live.played import (
    ExpectedSource,
    LiveSource,
    PlayedSource,
    SourceOptions,
    open_expected,
    open_played,
)
from segmentation_node.evaluation.live.replay import Replay
from segmentation_node.evaluation.live.scorer import (
    LiveScorer,
    heard_stages,
    losses,
    played_stages,
)
from segmentation_node.evaluation.live.target import (
    NodeProcess,
    RunningNode,
    TargetOptions,
    target_of,
)
from segmentation_node.evaluation.run.run import Run
from segmentation_node.labels import Grouping

READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class PaceOptions:
    """When images go out and for how long results are waited for.

    At ``rate`` times their recorded times or at ``hz``; with neither as fast as the node takes
    them; at most ``in_flight`` at once. Without a result for ``timeout_s`` images are lost; who
    listens goes after ``idle_s`` without an image.
    """

    rate: float = 0.0
    hz: float = 0.0
    in_flight: int = 2
    timeout_s: float = 30.0
    idle_s: float = 5.0


@dataclass(frozen=True)
class LiveOptions:
    """``target`` is scored on ``source``, which we play, or with ``listen`` somebody else.

    With a ``grouping`` its groups are scored.
    """

    target: TargetOptions
    source: SourceOptions
    pace: PaceOptions = PaceOptions()
    listen: bool = False
    grouping: Optional[Grouping] = None


class LiveRun:
    """A node that is ready, and its ``run``, which has no frames before ``score``.

    Where it publishes no boxes that can be heard, those of its class maps are scored.
    """

    def __init__(
        self,
        options: LiveOptions,
        source: LiveSource,
        collector: Collector,
        process: Union[NodeProcess, RunningNode],
    ) -> None:
        facts = collector.status.facts(options.target)
        facts.update(source.facts, **self.how(options))
        self.run = Run(
            collector.status.labels(),
            source.truth,
            facts,
            source.instance_classes,
            options.grouping,
            options.target.geometry,
            source.boxes.scores(collector.status.labels(), options.grouping),
        )
        if self.run.boxes is not None:
            self.run.source["boxes"] = "~/detections" if collector.hears_boxes else "class map"
        self.length = source.length
        self._options = options
        self.source = source
        self.collector = collector
        self._process = process

    def how(self, options: LiveOptions) -> Dict[str, Any]:
        """How images are played, for the report."""
        return {}

    def score(self, bar: Any) -> None:
        """Fill the run; ``bar`` is a progress bar. Raises ReplayError when the node ends."""
        pids = {"replay": os.getpid()}
        if self._process.pid is not None:
            pids["node"] = self._process.pid
        try:
            with LiveScorer(self.run, self._options.source.strict, bar, pids) as scorer:
                self.fill(scorer)
        finally:
            if self.collector.pairing.unpaired_count:
                self.run.source["unpaired_results"] = self.collector.pairing.unpaired_count

    def fill(self, scorer: LiveScorer) -> None:
        """Give the scorer every result and whatever has none."""
        raise NotImplementedError

    def losses(self) -> str:
        """What went missing, in one line; empty when nothing did."""
        pairing = self.collector.pairing
        return losses(self.run, pairing.unpaired, pairing.unpaired_count)


class PlayedRun(LiveRun):
    """We play the images."""

    source: PlayedSource
    collector: Replay

    def how(self, options: LiveOptions) -> Dict[str, Any]:
        """The pace, as far as it was asked for."""
        pace = options.pace
        asked = {"rate": pace.rate, "hz": pace.hz, "sim_time": options.target.sim_time}
        found: Dict[str, Any] = {"in_flight": pace.in_flight}
        found.update({key: value for key, value in asked.items() if value})
        return found

    def fill(self, scorer: LiveScorer) -> None:
        """Play everything."""
        source, replay, pace = self.source, self.collector, self._options.pace
        replay.pairing.on_result = lambda result: scorer.take(
            result, result.payload, played_stages(result)
        )
        replay.pairing.on_lost = lambda result, why: scorer.lose(result.payload.name, why)
        try:
            replay.play(
                scorer.playable(source.items),
                self._process,
                rate_hz=pace.hz,
                in_flight=pace.in_flight,
                factor=pace.rate,
            )
        finally:
            told = {"bag_problems" if self._options.source.bag else "left_out": source.warnings()}
            scorer.note(repeated_stamps=replay.repeated_stamps, **told)
            for line in source.warnings():
                print("warning: " + line, file=sys.stderr)


class HeardRun(LiveRun):
    """Somebody else plays the images, ``ros2 bag play`` or a camera."""

    source: ExpectedSource
    collector: Listening

    def fill(self, scorer: LiveScorer) -> None:
        """Listen until nothing has come for a while."""
        listening, expected = self.collector, self.source

        def take(result: Result) -> None:
            frame = expected.frame(result)
            if isinstance(frame, Frame):
                scorer.take(result, frame, heard_stages(result))
            elif frame is not None:
                scorer.leave_out(frame)

        def lose(result: Result, reason: str) -> None:
            problem = expected.lost(result, reason)
            if problem is not None:
                scorer.leave_out(problem)

        listening.pairing.on_result, listening.pairing.on_lost = take, lose
        print("listening: play the images now", file=sys.stderr)
        try:
            listening.listen(self._process, self._options.pace.idle_s)
            for problem in expected.rest():
                scorer.leave_out(problem)
        finally:
            scorer.note(
                listener_lost=listening.middleware_lost,
                unusable_truths=listening.unusable_truths,
                bag_problems=expected.warnings(),
            )
            for line in expected.warnings():
                print("warning: " + line, file=sys.stderr)


@contextmanager
def live_run(options: LiveOptions) -> Iterator[LiveRun]:
    """The node, started or found, and ready; it is left, or ended, with the block.

    Raises ReplayError when it does not get ready, and SegmentationError of source and model.
    """
    if options.listen:
        with open_expected(options.source) as expected:
            options = _with_boxes(options, expected)
            with _ready(options, expected, _listener(options, expected)) as (listening, process):
                yield HeardRun(options, expected, listening, process)
        return
    with open_played(options.source) as played:
        options = _with_boxes(options, played)
        with _ready(options, played, _player(options, played)) as (replay, process):
            yield PlayedRun(options, played, replay, process)


def _with_boxes(options: LiveOptions, source: LiveSource) -> LiveOptions:
    """The options with a node that, where it is started, gives boxes of what has true ones."""
    if options.target.node or source.boxes.labels is None:
        return options
    labels = options.target.card().labels
    scores = source.boxes.scores(labels, options.grouping)
    names = [labels.names[index] for index in scores.predicted_ids] if scores else []
    return replace(options, target=replace(options.target, detected=names))


@contextmanager
def _ready(options: LiveOptions, source: LiveSource, collector: Collector) -> Iterator[Any]:
    with collector, target_of(
        options.target, collector, source.image_topic, source.compressed
    ) as process:
        collector.wants_boxes = source.boxes.labels is not None and options.grouping is None
        collector.wait_until_ready(process, READY_TIMEOUT_S)
        yield collector, process


def _player(options: LiveOptions, source: PlayedSource) -> Replay:
    target = options.target
    topic = source.image_topic + ("/compressed" if source.compressed else "")
    return Replay(
        target.name,
        # A running node takes its images where it does.
        "" if target.node else topic,
        with_overlay=False,
        compressed=source.compressed,
        # Recorded outputs of a node must not mix with this one's.
        other_topics={
            name: kind
            for name, kind in source.other_topics.items()
            if not name.startswith(target.name + "/")
        },
        with_clock=target.sim_time,
        quiet_s=options.pace.timeout_s,
    )


def _listener(options: LiveOptions, source: ExpectedSource) -> Listening:
    return Listening(
        options.target.name,
        source.image_topic,
        source.compressed,
        source.truth_topic,
        options.pace.timeout_s,
        source.numbers,
        source.repeated,
    )
