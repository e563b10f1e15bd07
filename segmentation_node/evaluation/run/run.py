"""One run of an evaluation, whatever its frames come from: a data set, a bag or the live node."""

import time
from dataclasses import replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from segmentation_node.boxes import things_of
from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.evaluation.frame import Lost, Problem, ScoredFrame
from segmentation_node.evaluation.run.accuracy import Accuracy, folded
from segmentation_node.evaluation.run.best_and_worst import Examples
from segmentation_node.evaluation.run.confusion import require_classes
from segmentation_node.evaluation.run.consistency import TemporalConsistency
from segmentation_node.evaluation.run.detection_scores import FIGURES, DetectionScores
from segmentation_node.evaluation.run.timeline import FrameTable, pace, percentiles
from segmentation_node.evaluation.run.true_boxes import are_hidden, boxes_of_instances, inside
from segmentation_node.geometry import WHOLE_IMAGE, Geometry
from segmentation_node.labels import Grouping, LabelSet

# Facts of the source that stand in the report's first level too.
NAMES = ("model", "dataset", "split", "bag", "backend", "device")


class Run:
    """Counts frames as they come and gives the figures at any time.

    ``predicted`` and ``truth`` are the label sets of network and data; ``truth`` is None where
    the data has no labels. ``source`` says what was run, on what, with what; it goes into the
    report as it is. With a ``grouping`` the groups are scored; class maps may hold them already.
    Pixels that a ``geometry`` leaves out count nowhere. ``boxes`` counts those of frames that have
    true ones.
    Frames come in the order of their drive, from one thread. ``counters`` is for
    what a live node counted (received, dropped ...).
    """

    def __init__(
        self,
        predicted: LabelSet,
        truth: Optional[LabelSet],
        source: Dict[str, Any],
        instance_classes: Sequence[str] = (),
        grouping: Optional[Grouping] = None,
        geometry: Geometry = WHOLE_IMAGE,
        boxes: Optional[DetectionScores] = None,
    ) -> None:
        self.boxes = boxes if boxes is not None and boxes.names else None
        self._geometry = geometry
        self._left_out: Tuple[Tuple[int, ...], Optional[np.ndarray], int] = ((), None, 0)
        self.source = dict(source, **geometry.facts())
        self.unused_names: List[str] = []
        self._predicted_fold: Optional[Tuple[np.ndarray, str, int]] = None
        self._truth_fold: Optional[Tuple[np.ndarray, str, int]] = None
        if grouping is not None:
            instance_classes = ()
            self.source["grouping"] = grouping.name
            self.unused_names = grouping.unused(predicted, truth or predicted)
            if not grouping.has_made(predicted):
                classes = len(predicted)
                predicted, lut = grouping.fold(predicted)
                self._predicted_fold = lut, "prediction", classes
            if truth is not None:
                classes = len(truth)
                truth, lut = grouping.fold(truth)
                self._truth_fold = lut, "truth", classes
        self.predicted = predicted
        self.truth = truth
        self.accuracy = Accuracy(predicted, truth or predicted, instance_classes)
        self.consistency = TemporalConsistency(predicted)
        self.examples = Examples()
        self.changed_examples = Examples()
        self.frames = FrameTable()
        self.skipped: List[Problem] = []
        self.lost_frames: List[Problem] = []
        self.counters: Dict[str, int] = {}
        self.partial = False
        self._stages: List[str] = []
        self._start_s = time.monotonic()
        self._elapsed_s: Optional[float] = None

    @property
    def detected(self) -> Tuple[int, ...]:
        """The network's train ids of those things whose boxes are counted."""
        return self.boxes.predicted_ids if self.boxes is not None else ()

    def add(self, frame: ScoredFrame) -> None:
        """Count a frame.

        Raises DatasetError that names the frame, and counts nothing, where truth and class map
        differ in size or hold ids that are no class, or an image has not the geometry's size.
        """
        frame, left_out = self._without_left_out(frame)
        figures = {"done_s": frame.done_s - self._start_s}
        score = None
        if frame.truth_hw is not None and self.truth is None:
            raise ValueError("a frame has a truth, but the run has no label set for it")
        try:
            frame = self._in_groups(frame)
            if frame.truth_hw is None:
                require_classes(frame.class_map_hw, len(self.predicted))
            else:
                counts = self.accuracy.add(
                    frame.truth_hw, frame.class_map_hw, frame.instances_hw, frame.confidence_hw
                )
                figures["mean_iou"] = score = counts.mean_iou()
                figures["global_accuracy"] = counts.global_accuracy()
        except ValueError as error:
            raise DatasetError("%s: %s" % (frame.name, error)) from error
        self._add_boxes(frame)
        change = self.consistency.add(frame.class_map_hw, frame.position, left_out)
        if change is not None:
            figures["changed_share"] = change.share
        for stage, value_ms in frame.stages_ms.items():
            if stage not in self._stages:
                self._stages.append(stage)
            figures[stage + "_ms"] = value_ms
        self.frames.add(frame.name, frame.stamp_ns, figures)
        if score is not None and score == score:
            self.examples.offer(
                frame.name, score, frame.image_hwc, frame.class_map_hw, frame.truth_hw
            )
        if change is not None:
            self.changed_examples.offer(
                frame.name,
                change.share,
                frame.image_hwc,
                frame.class_map_hw,
                before_hw=change.before_hw,
            )

    def _in_groups(self, frame: ScoredFrame) -> ScoredFrame:
        """Raises ValueError on ids that are no class."""
        class_map_hw, truth_hw = frame.class_map_hw, frame.truth_hw
        if self._predicted_fold is not None:
            class_map_hw = folded(class_map_hw, *self._predicted_fold)
        if self._truth_fold is not None and truth_hw is not None:
            truth_hw = folded(truth_hw, *self._truth_fold)
        return replace(frame, class_map_hw=class_map_hw, truth_hw=truth_hw)

    def _without_left_out(self, frame: ScoredFrame) -> Tuple[ScoredFrame, int]:
        """The frame with what the geometry leaves out unlabelled everywhere, and how much it is."""
        size = frame.class_map_hw.shape
        if self._left_out[0] != size:
            try:
                mask_hw = self._geometry.left_out((size[0], size[1]))
            except ImageError as error:
                raise DatasetError("%s: %s" % (frame.name, error)) from error
            count = 0 if mask_hw is None else int(cv2.countNonZero(mask_hw))
            self._left_out = (size, mask_hw, count)
        _, left_out, pixels = self._left_out
        if left_out is None:
            return frame, 0
        truth_hw, instances_hw = frame.truth_hw, frame.instances_hw
        # One of another size is told when it is counted.
        if truth_hw is not None and truth_hw.shape == size:
            truth_hw = cv2.bitwise_or(truth_hw, left_out)
        if instances_hw is not None and instances_hw.shape == size:
            instances_hw = np.where(left_out == 0, instances_hw, 0)
        class_map_hw = cv2.bitwise_or(frame.class_map_hw, left_out)
        frame = replace(
            frame, class_map_hw=class_map_hw, truth_hw=truth_hw, instances_hw=instances_hw
        )
        return frame, pixels

    def _add_boxes(self, frame: ScoredFrame) -> None:
        if self.boxes is None:
            return
        true, boxes = frame.true_boxes, frame.boxes
        if boxes is None:
            boxes = things_of(frame.class_map_hw, None, self.boxes.predicted_ids)
        if true is not None:
            # Recorded boxes may be of the whole image.
            roi, left_out = self._geometry.roi, self._left_out[1]
            true, boxes = inside(true, roi), inside(boxes, roi)
            if left_out is not None:
                true = true.outside(left_out)
                boxes = boxes.take(~are_hidden(boxes.boxes_xyxy, left_out))
        elif frame.instances_hw is not None and frame.truth_hw is not None:
            true = boxes_of_instances(frame.instances_hw, frame.truth_hw, self.boxes.truth_ids)
        else:
            return
        self.boxes.add(true, boxes, frame.proposals_xyxy)

    def leave_out(self, problem: Problem) -> None:
        """A frame without a result: skipped, or lost where that never came."""
        (self.lost_frames if isinstance(problem, Lost) else self.skipped).append(problem)

    def finish(self, partial: bool = False) -> None:
        """Stop the clock; ``partial`` marks a run that ended before its data did."""
        self._elapsed_s = time.monotonic() - self._start_s
        self.partial = partial

    def require_a_frame(self) -> None:
        """Raise DatasetError where there were frames and none could be scored."""
        left_out = self.skipped + self.lost_frames
        if left_out and not len(self.frames):
            raise DatasetError(
                "none of %d frames could be scored; the first: %s" % (len(left_out), left_out[0])
            )

    def as_json(self) -> Dict[str, Any]:
        """All figures; undefined ones are None. ``docs/evaluation.md`` defines them."""
        content = self.accuracy.as_json()
        content.update(
            frames=len(self.frames),
            frames_with_truth=self.accuracy.frames,
            partial=self.partial,
            notes=self.notes(),
            skipped=[vars(problem) for problem in self.skipped],
            lost=[vars(problem) for problem in self.lost_frames],
            counters=dict(self.counters),
            stages_ms={
                stage: percentiles(self.frames.column(stage + "_ms")) for stage in self._stages
            },
            elapsed_s=self._elapsed_s,
            temporal_consistency=self.consistency.as_json(),
        )
        content.update(dict.fromkeys(FIGURES) if self.boxes is None else self.boxes.as_json())
        content.update(pace(self.frames.column("done_s")))
        content.update({name: self.source[name] for name in NAMES if name in self.source})
        content["source"] = self.source
        content["per_frame"] = self.frames.rows()
        return content

    def notes(self) -> List[str]:
        """What a reader has to know before the figures, one line each."""
        notes = []
        frames, labelled = len(self.frames), self.accuracy.frames
        if self.partial:
            notes.append("partial: the run was stopped before the end of its data")
        if "jobs" in self.source:
            notes.append(
                "%d images at a time: the times of the stages are those of a busy machine"
                % self.source["jobs"]
            )
        if self.skipped:
            notes.append(
                "%d of %d frames could not be read, segmented or scored and were skipped; the "
                "figures are those of the others"
                % (len(self.skipped), frames + len(self.skipped) + len(self.lost_frames))
            )
        if self.lost_frames:
            notes.append("%d frames were lost: no result came back" % len(self.lost_frames))
        if self.truth is None:
            notes.append("no ground truth: accuracy was not measured")
        elif frames and not labelled:
            notes.append("no ground truth beside the class maps: accuracy was not measured")
        elif labelled < frames:
            notes.append(
                "%d of %d frames have no ground truth: accuracy is that of the others"
                % (frames - labelled, frames)
            )
        notes += self.boxes.notes() if self.boxes is not None else []
        if self.unused_names:
            notes.append(
                "the grouping names classes that neither network nor data has: %s"
                % ", ".join(self.unused_names)
            )
        if self.truth is not None and not self.accuracy.level.is_class_level:
            notes.append(
                "label sets differ (network %s, data %s): compared on Cityscapes' 7 categories"
                % (self.predicted.name, self.truth.name)
            )
        return notes
