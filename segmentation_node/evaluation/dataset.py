"""Score a model on a data set through the pipeline that the node runs."""

from contextlib import closing
from typing import Any, Callable, Dict, Generator, Iterable, Iterator, Optional, Sequence, Union

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.offline import InputFrame, score_frames
from segmentation_node.evaluation.read_ahead import read_ahead
from segmentation_node.evaluation.run.run import Problem, Run
from segmentation_node.pipeline import Segmenter

Frame = Union[InputFrame, Problem]
Progress = Callable[[Iterator[Frame]], Iterable[Frame]]


def new_run(segmenter: Segmenter, dataset: Dataset, source: Dict[str, Any]) -> Run:
    """An empty run of a network on a data set."""
    instance_classes = dataset.instance_classes if dataset.with_instances else ()
    return Run(segmenter.card.labels, dataset.label_set, source, instance_classes)


def score_dataset(
    segmenter: Segmenter,
    dataset: Dataset,
    run: Run,
    indices: Optional[Sequence[int]] = None,
    progress: Progress = iter,
    strict: bool = False,
) -> None:
    """Segment every sample (or those of ``indices``) and count it in ``run``.

    ``progress`` wraps the frames, for a bar. A broken sample is skipped and counted, or with
    ``strict`` raised as DatasetError.
    """
    wanted = range(len(dataset)) if indices is None else indices
    with closing(read_frames(dataset, wanted)) as frames:
        score_frames(segmenter, progress(frames), run, strict)


def evaluate_dataset(
    segmenter: Segmenter,
    dataset: Dataset,
    indices: Optional[Sequence[int]] = None,
    progress: Progress = iter,
) -> Run:
    """The same as a run of its own. Raises DatasetError on a broken sample."""
    run = new_run(segmenter, dataset, {})
    score_dataset(segmenter, dataset, run, indices, progress, strict=True)
    run.finish()
    return run


def read_frames(dataset: Dataset, indices: Sequence[int]) -> Generator[Frame, None, None]:
    """Frames in this order, read on a thread in advance; a broken sample is a Problem."""
    with closing(read_ahead(_Frames(dataset), indices)) as frames:
        yield from frames


class _Frames:
    """A data set's samples as frames, the broken ones as problems."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __getitem__(self, index: int) -> Frame:
        try:
            sample = self._dataset[index]
        except DatasetError as error:
            return Problem(self._dataset.sample_name(index), str(error))
        return InputFrame(
            sample.name,
            sample.image_hwc,
            sample.labels_hw,
            sample.instances_hw,
            position=self._dataset.drive_position(index),
        )
