"""Frames through the pipeline without a ROS graph: reading, segmenting and scoring overlap.

The network runs on the calling thread, scoring on a second one; readers bring a third.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Deque, Dict, Iterable, Optional, Tuple, Union

import numpy as np

from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.evaluation.run.consistency import DrivePosition
from segmentation_node.evaluation.run.run import Problem, Run, ScoredFrame
from segmentation_node.pipeline import Segmenter


@dataclass(frozen=True)
class InputFrame:
    """A frame to segment: uint8 RGB (H, W, 3); the rest as ``ScoredFrame`` has it.

    ``stages_ms`` holds what was spent on it already, such as convert.
    """

    name: str
    image_hwc: np.ndarray
    truth_hw: Optional[np.ndarray] = None
    instances_hw: Optional[np.ndarray] = None
    stamp_ns: Optional[int] = None
    position: Optional[DrivePosition] = None
    stages_ms: Dict[str, float] = field(default_factory=dict)


def score_frames(
    segmenter: Segmenter,
    frames: Iterable[Union[InputFrame, Problem]],
    run: Run,
    strict: bool = False,
) -> None:
    """Segment every frame at its own size and count it in ``run``.

    A ``Problem`` stands for a frame that could not be read. It, and a frame that cannot be
    segmented or scored, is skipped and counted, or with ``strict`` raised as DatasetError. An
    exception, Ctrl-C included, leaves every frame that was segmented counted.
    """
    with ScoringThread(run, strict) as scoring:
        for frame in frames:
            if isinstance(frame, Problem):
                _skip(run, frame, strict)
                continue
            try:
                scoring.add(_segmented(segmenter, frame))
            except ImageError as error:
                _skip(run, Problem(frame.name, "%s: %s" % (frame.name, error)), strict)


def _segmented(segmenter: Segmenter, frame: InputFrame) -> ScoredFrame:
    # A map of its own: the segmenter's buffer is written again before this one is scored.
    class_map = np.empty(segmenter.output_size(frame.image_hwc.shape[:2]), np.uint8)
    result = segmenter.segment(frame.image_hwc, out_class_map_hw=class_map)
    stages_ms = dict(frame.stages_ms, **result.stages_ms)
    stages_ms["processing"] = sum(stages_ms.values())
    return ScoredFrame(
        frame.name,
        class_map,
        frame.stamp_ns,
        frame.image_hwc,
        frame.truth_hw,
        frame.instances_hw,
        stages_ms,
        frame.position,
    )


def _skip(run: Run, problem: Problem, strict: bool) -> None:
    if strict:
        raise DatasetError(problem.reason)
    run.skip(problem.name, problem.reason)


class ScoringThread:
    """Counts frames in order on a thread of its own, a few behind at most."""

    def __init__(self, run: Run, strict: bool, depth: int = 3) -> None:
        self._run = run
        self._strict = strict
        self._depth = depth
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._waiting: Deque[Tuple[str, Future]] = deque()

    def __enter__(self) -> "ScoringThread":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        self._pool.shutdown()
        # After an exception, Ctrl-C included, what was segmented is still counted or named.
        self._strict = self._strict and kind is None
        while self._waiting:
            self._take_first()

    def add(self, frame: ScoredFrame) -> None:
        self._waiting.append((frame.name, self._pool.submit(self._run.add, frame)))
        while len(self._waiting) > self._depth:
            self._take_first()

    def _take_first(self) -> None:
        name, future = self._waiting.popleft()
        try:
            future.result()
        except DatasetError as error:
            _skip(self._run, Problem(name, str(error)), self._strict)
