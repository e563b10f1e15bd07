"""Results of the live node into a run."""

from dataclasses import replace
from typing import Any, Dict, Iterable, Iterator, List

from segmentation_node.errors import ImageError
from segmentation_node.evaluation.detections import boxes_in
from segmentation_node.evaluation.frame import Frame, Lost, Problem, stamp_text
from segmentation_node.evaluation.live.target import resident_mb
from segmentation_node.evaluation.offline import ScoringThread, leave_out
from segmentation_node.evaluation.run.run import Run
from segmentation_node.timing import STAGES

COUNTS = ("received", "processed", "dropped", "failed", "queued", "lost")
MEMORY_SAMPLES = 20
NAMED_LOSSES = 3


class LiveScorer:
    """Counts a replay's results in a run, in the order in which they came; under ``with``.

    ``pids`` are processes whose memory is watched, by name: the report has the resident MiB of
    each at a fifth of the run, when all buffers are there, at its end, and at most between.
    """

    def __init__(self, run: Run, strict: bool, progress: Any, pids: Dict[str, int]) -> None:
        self._run = run
        self._strict = strict
        self._progress = progress
        self._pids = pids
        self._memory_mb: Dict[str, List[float]] = {name: [] for name in pids}
        self._results = 0
        self._scoring = ScoringThread(run, strict)

    def __enter__(self) -> "LiveScorer":
        self._scoring.__enter__()
        return self

    def __exit__(self, kind: Any, *details: Any) -> None:
        self._progress.close()
        self._scoring.__exit__(kind, *details)
        for name, values in self._memory_mb.items():
            settled = values[len(values) // 5 :]
            if settled:
                self.note(
                    **{
                        name + "_memory_mb": {
                            "settled": round(settled[0], 1),
                            "most": round(max(settled), 1),
                            "end": round(settled[-1], 1),
                        }
                    }
                )

    def note(self, **facts: Any) -> None:
        """Add to what the report says of the run."""
        self._run.source.update(facts)

    def take(self, result: Any, frame: Frame, stages_ms: Dict[str, float]) -> None:
        """A ``Result`` of the frame that was sent; one whose boxes cannot be read is left out."""
        if result.latency is not None:
            self._run.counters = {name: int(getattr(result.latency, name)) for name in COUNTS}
        boxes = None
        if result.detections is not None:
            try:
                boxes = boxes_in(result.detections, self._run.predicted)
            except ImageError as error:
                self.leave_out(Problem(frame.name, "%s: %s" % (frame.name, error)))
                return
        scored = frame.scored(result.class_map_hw, stages_ms, boxes)
        self._scoring.add(replace(scored, stamp_ns=result.stamp_ns, done_s=result.answered_s))
        self._results += 1
        self._watch_memory()
        self._progress.update()

    def leave_out(self, problem: Problem) -> None:
        """A frame that could not be read, or was lost: that is for the whole run to judge.

        Raises DatasetError under ``strict`` for the former.
        """
        leave_out(self._run, problem, self._strict and not isinstance(problem, Lost))
        self._progress.update()

    def playable(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items without the problems among them, which are skipped."""
        for item in items:
            if isinstance(item, Problem):
                self.leave_out(item)
            else:
                yield item

    def _watch_memory(self) -> None:
        every = max(1, (self._progress.total or 1000) // MEMORY_SAMPLES)
        if self._results % every == 0:
            for name, pid in self._pids.items():
                self._memory_mb[name].append(resident_mb(pid))


def node_stages(latency: Any) -> Dict[str, float]:
    """The stages of a ``FrameLatency`` in ms; empty without one."""
    if latency is None:
        return {}
    return {name: getattr(latency, name + "_ms") for name in STAGES + ("processing",)}


def played_stages(result: Any) -> Dict[str, float]:
    """The same, and what the player measured: sent to class map received, and the way there.

    ``transport`` is the rest beside processing: both ways through the middleware, and waiting
    in it.
    """
    stages_ms = node_stages(result.latency)
    end_to_end_ms = result.end_to_end_ms
    if stages_ms:
        stages_ms["transport"] = end_to_end_ms - stages_ms["processing"]
    stages_ms["end_to_end"] = end_to_end_ms
    return stages_ms


def heard_stages(result: Any) -> Dict[str, float]:
    """The same where somebody else played: against the image's stamp, in the node's clock."""
    stages_ms = node_stages(result.latency)
    if stages_ms:
        for name in ("transport", "end_to_end"):
            stages_ms[name] = getattr(result.latency, name + "_ms")
    return stages_ms


def losses(run: Run, unpaired: List[int], unpaired_count: int) -> str:
    """What went missing, in one line; empty when nothing did."""
    parts = []
    if run.lost_frames:
        named = ["%s (%s)" % (item.name, item.reason) for item in run.lost_frames[:NAMED_LOSSES]]
        more = ", ..." if len(run.lost_frames) > NAMED_LOSSES else ""
        sent = len(run.frames) + len(run.skipped) + len(run.lost_frames)
        parts.append(
            "%d of %d frames lost: %s%s" % (len(run.lost_frames), sent, ", ".join(named), more)
        )
    if unpaired_count:
        stamps = ", ".join(stamp_text(stamp) for stamp in unpaired[:NAMED_LOSSES])
        parts.append(
            "%d results belong to no image that was sent (stamps %s)" % (unpaired_count, stamps)
        )
    return "; ".join(parts)
