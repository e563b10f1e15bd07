"""A drive: frames in the order of time, with the data's own stamps and labels where it has them."""

from functools import partial
from typing import Callable, Iterator, Optional, Sequence, Tuple, Union

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets.base import Dataset
from segmentation_node.evaluation.frame import Calibration, DrivePosition, Frame, Problem
from segmentation_node.labels import LabelSet

SEQUENCE_GAP_NS = 2 * 10**9
# A day like any other, for data without dates: zero would mean "no stamp" in ROS.
START_NS = 10**9 * 10**9


class Drive:
    """Frames to be recorded. A subclass supplies ``frames`` and sets what it knows.

    ``length`` is None where it is not known before the end; ``split`` says what was opened;
    ``notes`` says what the data lacks. ``rate_hz`` is the data's own, for frames without a stamp;
    ``has_times`` says that every frame has one. ``box_labels`` is the label set of their true
    boxes, of ``box_classes``, where they have any; ``is_calibrated`` says that a frame may have a
    calibration itself.
    """

    label_set: Optional[LabelSet] = None
    box_labels: Optional[LabelSet] = None
    box_classes: Tuple[str, ...] = ()
    is_calibrated = False
    calibration: Optional[Calibration] = None
    length: Optional[int] = None
    rate_hz: Optional[float] = None
    frame_id = "camera"
    split = ""
    has_times = False
    notes: Tuple[str, ...] = ()

    def frames(self) -> Iterator[Union[Frame, Problem]]:
        """Every frame, in the order of time; a Problem in place of a broken one."""
        raise NotImplementedError


def frame_or_problem(name: str, read: Callable[[], Frame]) -> Union[Frame, Problem]:
    """What ``read`` gives; where that is a DatasetError, the problem."""
    try:
        return read()
    except DatasetError as error:
        return Problem(name, str(error))


class LabelledDrive(Drive):
    """A data set's split as a drive; ``sequence`` takes one of its sequences alone.

    Raises DatasetError that lists the sequences where there is none of that name.
    """

    def __init__(self, dataset: Dataset, sequence: str = "") -> None:
        self._dataset = dataset
        self._indices = _indices(dataset, sequence)
        self.label_set = dataset.label_set if dataset.has_labels else None
        self.box_labels = dataset.label_set if dataset.box_classes else None
        self.box_classes = dataset.box_classes
        self.is_calibrated = dataset.is_calibrated
        self.length = len(self._indices)
        self.split = dataset.split
        self.notes = dataset.notes

    def frames(self) -> Iterator[Union[Frame, Problem]]:
        """Every frame of it."""
        for index in self._indices:
            name = self._dataset.sample_name(index)
            yield frame_or_problem(name, partial(self._dataset.__getitem__, index))


def _indices(dataset: Dataset, sequence: str) -> Sequence[int]:
    every = range(len(dataset))
    if not sequence:
        return every
    positions = [dataset.drive_position(index) for index in every]
    chosen = [index for index in every if (positions[index] or ("",))[0] == sequence]
    if not chosen:
        known = sorted({position[0] for position in positions if position is not None})
        raise DatasetError(
            "no sequence %r; %s"
            % (sequence, "the split has " + ", ".join(known) if known else "these are no drives")
        )
    return chosen


class FrameClock:
    """Stamps for frames: the data's own, or counted from ``start_ns`` at ``rate_hz``.

    Where a sequence follows another there is a gap, so that nobody takes them for one.
    """

    def __init__(self, rate_hz: float, start_ns: int) -> None:
        self._rate_hz = rate_hz
        self._start_ns = start_ns
        self._first: Optional[DrivePosition] = None
        self._count = 0
        self._last_ns = 0

    def stamp_ns(self, frame: Frame) -> int:
        """The stamp of the next frame."""
        if frame.stamp_ns is not None:
            return frame.stamp_ns
        if frame.position is None:
            number = self._count
        else:
            if self._first is None or frame.position[0] != self._first[0]:
                if self._first is not None:
                    self._start_ns = self._last_ns + SEQUENCE_GAP_NS
                self._first = frame.position
            number = frame.position[1] - self._first[1]
        self._count += 1
        self._last_ns = self._start_ns + int(round(number * 1e9 / self._rate_hz))
        return self._last_ns
