"""Score a node that runs on images that are played into it, by us or by somebody else."""

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Iterator, Optional, Union

from segmentation_node.evaluation.frame import Frame, Lost
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
    joined_graph,
    prepare_middleware,
    target_of,
)
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

    With a ``grouping`` its groups are scored. What we play is shown to a ``recorder`` too, with
    its overlay: ``recorder.take(result)``.
    """

    target: TargetOptions
    source: SourceOptions
    pace: PaceOptions = PaceOptions()
    listen: bool = False
    grouping: Optional[Grouping] = None
    recorder: Any = None


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
        target, status = options.target, collector.status
        self.run = source.data.new_run(
            status.labels(), status.facts(target), options.grouping, target.geometry
        )
        if self.run.boxes is not None:
            self.run.source["boxes"] = "~/detections" if collector.hears_boxes else "class map"
        self.source = source
        self.collector = collector
        self._options = options
        self._process = process

    def score(self, bar: Any) -> None:
        """Fill the run; ``bar`` is a progress bar. Raises ReplayError when the node ends."""
        pids = {"replay": os.getpid()}
        if self._process.pid is not None:
            pids["node"] = self._process.pid
        try:
            with LiveScorer(self.run, self._options.source.strict, bar, pids) as scorer:
                self.fill(scorer)
        finally:
            warnings = self.source.data.warnings()
            key = "left_out" if self._options.source.dataset else "bag_problems"
            self.run.source[key] = warnings
            for line in warnings:
                print("warning: " + line, file=sys.stderr)
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

    def fill(self, scorer: LiveScorer) -> None:
        """Play everything."""
        replay, pace = self.collector, self._options.pace
        asked = {"rate": pace.rate, "hz": pace.hz, "sim_time": self._options.target.sim_time}
        given = {key: value for key, value in asked.items() if value}
        scorer.note(in_flight=pace.in_flight, **given)
        replay.pairing.on_result = partial(self._take, scorer)
        replay.pairing.on_lost = lambda result, why: scorer.leave_out(
            Lost(result.payload.name, why)
        )
        try:
            replay.play(
                scorer.playable(self.source.items),
                self._process,
                rate_hz=pace.hz,
                in_flight=pace.in_flight,
                factor=pace.rate,
            )
        finally:
            scorer.note(repeated_stamps=replay.repeated_stamps)

    def _take(self, scorer: LiveScorer, result: Result) -> None:
        recorder = self._options.recorder
        if recorder is None:
            scorer.take(result, result.payload, played_stages(result))
            return
        # The node is not done with a frame when its class map is here: the overlay comes later.
        scorer.take(result, result.payload, heard_stages(result))
        recorder.take(result)


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
            )


@contextmanager
def live_run(options: LiveOptions) -> Iterator[LiveRun]:
    """The node, started or found, and ready; with the block it is left, or ended, as is the graph.

    Raises ReplayError when it does not get ready, and SegmentationError of source and model.
    """
    opened: Any = open_played
    collector_of: Any = _player
    kind: Any = PlayedRun
    if options.listen:
        opened, collector_of, kind = open_expected, _listener, HeardRun
    prepare_middleware(stay_local=not options.target.node and not options.listen)
    with joined_graph(), opened(options.source) as source:
        options = _with_boxes(options, source)
        topic, is_compressed = source.image_topic, source.compressed
        with collector_of(options, source) as collector, target_of(
            options.target, collector, topic, is_compressed
        ) as process:
            has_boxes = source.data.box_truth.labels is not None
            collector.wants_boxes = has_boxes and options.grouping is None
            collector.wait_until_ready(process, READY_TIMEOUT_S)
            yield kind(options, source, collector, process)


def _with_boxes(options: LiveOptions, source: LiveSource) -> LiveOptions:
    """The options with a node that, where it is started, gives boxes of what has true ones."""
    if options.target.node or source.data.box_truth.labels is None:
        return options
    labels = options.target.card().labels
    scores = source.data.box_truth.scores(labels, options.grouping)
    names = [labels.names[index] for index in scores.predicted_ids] if scores else []
    return replace(options, target=replace(options.target, detected=names))


def _player(options: LiveOptions, source: PlayedSource) -> Replay:
    target = options.target
    topic = source.image_topic + ("/compressed" if source.compressed else "")
    return Replay(
        target.name,
        # A running node takes its images where it does.
        "" if target.node else topic,
        with_overlay=options.recorder is not None,
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
