"""Frames through the pipeline without a ROS graph: reading, segmenting and scoring overlap.

The network runs on the calling thread, or several of it on threads of their own; scoring has a
thread, and so has a source to read.
"""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from queue import Queue
from typing import Any, Callable, Deque, Iterable, Iterator, Optional, Sequence, Tuple, Union

import numpy as np

from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.evaluation.datasets.base import Dataset
from segmentation_node.evaluation.frame import Frame, Problem, ScoredFrame
from segmentation_node.evaluation.read_ahead import done_ahead
from segmentation_node.evaluation.run.run import Run
from segmentation_node.evaluation.sources import DatasetSource
from segmentation_node.model_card import ConfidenceInfo
from segmentation_node.pipeline import Segmenter

SCORED_BEHIND = 3
Progress = Callable[[Iterator[Union[Frame, Problem]]], Iterable[Union[Frame, Problem]]]


def evaluate_dataset(
    segmenter: Segmenter,
    dataset: Dataset,
    indices: Optional[Sequence[int]] = None,
    progress: Progress = iter,
    with_calibration: bool = False,
    beside: Sequence[Segmenter] = (),
) -> Run:
    """The run of a network on a data set, or on those frames of it.

    ``progress`` wraps the frames, for a bar; ``beside`` is as in ``segmented``. Raises DatasetError
    on a broken frame.
    """
    source = DatasetSource(dataset, "")
    run = source.new_run(segmenter.labels, {}, geometry=segmenter.geometry)
    with closing(source.frames(indices)) as frames:
        seen = segmented(segmenter, progress(frames), run, with_calibration, beside)
        score_frames(seen, run, strict=True)
    run.finish()
    return run


def measure_confidence(
    segmenter: Segmenter, dataset: Dataset, progress: Progress = iter
) -> ConfidenceInfo:
    """How sure a model is on a data set, for its card; a geometry plays no part.

    Raises DatasetError on a broken frame, BackendError where the model gives no confidence.
    """
    seen = []
    for frame in sound_frames(dataset, progress):
        segmenter.prepare(frame.image_hwc)
        seen.append(segmenter.certainty(segmenter.batch.run(True)))
    means = np.array([item.mean for item in seen if item is not None])
    if means.size == 0:
        raise DatasetError("%s has no frame to measure the confidence on" % dataset.split)
    unlabelled = np.mean([item.unlabelled_share for item in seen if item is not None])
    figures = (means.mean(), means.std(), unlabelled)
    return ConfidenceInfo(*(round(float(value), 4) for value in figures))


def share_of_equal(segmenter: Segmenter, reference: Segmenter, dataset: Dataset) -> float:
    """Share of the pixels to which two segmenters give the same class, 0-1.

    Raises DatasetError on a broken frame.
    """
    equal = total = 0
    for frame in sound_frames(dataset):
        found = segmenter.segment(frame.image_hwc).class_map_hw
        expected = reference.segment(frame.image_hwc).class_map_hw
        equal += int(np.count_nonzero(found == expected))
        total += found.size
    return round(equal / total, 5)


def sound_frames(dataset: Dataset, progress: Progress = iter) -> Iterator[Frame]:
    """Every frame of a data set. Raises DatasetError on a broken one."""
    with closing(DatasetSource(dataset, "").frames()) as frames:
        for frame in progress(frames):
            if isinstance(frame, Problem):
                raise DatasetError(str(frame))
            yield frame


def segmented(
    segmenter: Segmenter,
    frames: Iterable[Union[Frame, Problem]],
    run: Run,
    with_calibration: bool,
    beside: Sequence[Segmenter] = (),
) -> Iterator[Union[ScoredFrame, Problem]]:
    """The frames with class maps at their own size, and boxes of what ``run`` wants detected.

    A ``Problem`` stays one. ``with_calibration`` frames that have a truth get their confidence too,
    where the model has it. Segmenters ``beside`` the first, of the same model, take frames at the
    same time; results keep the frames' order.
    """
    with_calibration = with_calibration and segmenter.backend.has_confidence
    free: "Queue[Segmenter]" = Queue()
    for item in [segmenter] + list(beside):
        _find_boxes(item, run)
        free.put(item)

    def result(frame: Union[Frame, Problem]) -> Union[ScoredFrame, Problem]:
        if isinstance(frame, Problem):
            return frame
        taken = free.get()
        try:
            return _segmented(taken, frame, with_calibration and frame.truth_hw is not None)
        except ImageError as error:
            return Problem(frame.name, "%s: %s" % (frame.name, error))
        finally:
            free.put(taken)

    if not beside:
        yield from map(result, frames)
        return
    count = 1 + len(beside)
    with closing(done_ahead(result, frames, depth=count, threads=count)) as results:
        for found in results:
            # A later frame may be done before an earlier one, but comes out behind it.
            is_problem = isinstance(found, Problem)
            yield found if is_problem else replace(found, done_s=time.monotonic())


def _find_boxes(segmenter: Segmenter, run: Run) -> None:
    """Have the segmenter find what the run counts the boxes of.

    By the model's box head, or, where it has none that runs here, by its class maps' connected
    areas; the run's facts say which.
    """
    backend = segmenter.backend
    by_head = bool(run.detected) and not backend.lacks_boxes_at_its_precision()
    if by_head:
        segmenter.batch.open_boxes()
    segmenter.finds_by_head = by_head
    segmenter.detected = () if by_head else run.detected


def _segmented(segmenter: Segmenter, frame: Frame, with_calibration: bool) -> ScoredFrame:
    # Maps of its own: the segmenter's buffers are written again before these are scored.
    size = segmenter.output_size(frame.image_hwc.shape[:2])
    class_map = np.empty(size, np.uint8)
    result = segmenter.segment(
        frame.image_hwc,
        out_class_map_hw=class_map,
        out_confidence_hw=np.empty(size, np.uint8) if with_calibration else None,
        with_confidence=with_calibration,
        with_boxes=segmenter.has_boxes,
    )
    stages_ms = result.stages_ms
    to_class_map_ms = sum(stages_ms.values()) - stages_ms.get("detections", 0.0)
    return frame.scored(
        class_map,
        dict(stages_ms, processing=to_class_map_ms),
        result.boxes,
        result.confidence_hw if with_calibration else None,
    )


def score_frames(
    frames: Iterable[Union[ScoredFrame, Problem]], run: Run, strict: bool = False
) -> None:
    """Count every frame in ``run``, and what cannot be counted as skipped or lost.

    With ``strict`` that raises DatasetError instead. An exception, Ctrl-C included, leaves every
    frame that was segmented counted.
    """
    with ScoringThread(run, strict) as scoring:
        for frame in frames:
            if isinstance(frame, Problem):
                leave_out(run, frame, strict)
            else:
                scoring.add(frame)


def leave_out(run: Run, problem: Problem, strict: bool) -> None:
    """Note a frame without a result in ``run``, or with ``strict`` raise DatasetError."""
    if strict:
        raise DatasetError(str(problem))
    run.leave_out(problem)


class ScoringThread:
    """Counts frames in order on a thread of its own, ``SCORED_BEHIND`` behind at most."""

    def __init__(self, run: Run, strict: bool) -> None:
        self._run = run
        self._strict = strict
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
        while len(self._waiting) > SCORED_BEHIND:
            self._take_first()

    def _take_first(self) -> None:
        name, future = self._waiting.popleft()
        try:
            future.result()
        except DatasetError as error:
            leave_out(self._run, Problem(name, str(error)), self._strict)
