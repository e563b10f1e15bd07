"""The model that a session's cameras share: which one, on what, and its segmenters."""

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import List, Optional, Sequence, Tuple

from segmentation_node.backends import BACKENDS, Backend
from segmentation_node.backends.choice import BackendChoice, open_chosen
from segmentation_node.deadline import Ladder, Rung, rungs_of
from segmentation_node.errors import LabelsError, SegmentationError
from segmentation_node.labels import UNLABELLED, Grouping, LabelSet, read_grouping
from segmentation_node.model_card import WEIGHTS, ModelCard, open_model, size_text
from segmentation_node.pipeline import Batch, Segmenter, open_batch
from segmentation_node.ros.memory import give_memory_back
from segmentation_node.ros.parameters import Settings


@dataclass(frozen=True)
class ModelPlan:
    """A model as the settings ask for it: all that can be checked before anything is loaded."""

    settings: Settings
    card: ModelCard
    grouping: Optional[Grouping]


def plan_model(settings: Settings, threshold: float) -> ModelPlan:
    """What to load; ``threshold`` is that of the confidence. Raises SegmentationError."""
    card = open_model(settings.model)
    _check_threshold(card, threshold)
    grouping, labels = None, card.labels
    if settings.grouping:
        grouping = read_grouping(os.path.expanduser(settings.grouping))
        labels = grouping.fold(labels)[0]
    _check_detected(labels, settings.detected)
    return ModelPlan(settings, card, grouping)


class LoadedModel:
    """Warm models of the sizes that may run, and every camera's segmenter over each.

    Belongs to the thread that opened it. Without a deadline there is one, of the card's size.
    """

    def __init__(self, plan: ModelPlan, cameras: int) -> None:
        """Raises BackendError, CardError or SegmentationError."""
        self._plan = plan
        self._cameras = cameras
        settings = plan.settings
        open_chosen(plan.card, settings.backend, settings.options, self._open)
        self.ladder = None
        if settings.deadline_ms > 0:
            self.ladder = Ladder(settings.deadline_ms, [rung.text for rung in self._rungs])
        self.labels = self._segmenters[0][0].labels
        self.detected = settings.detected
        by_head = any(batch.box_finder is not None for batch in self._batches)
        if by_head and plan.card.boxes is not None:
            self.detected = _names_of_head(plan)
            if not self.detected:
                self._lacking_boxes.append("the grouping has no group of what the box head finds")

    @property
    def rung(self) -> int:
        """Which of the sizes runs."""
        return self.ladder.rung if self.ladder is not None else 0

    @property
    def card(self) -> ModelCard:
        """Of the size that runs."""
        return self._rungs[self.rung].card

    @property
    def segmenters(self) -> List[Segmenter]:
        """The cameras', at the size that runs."""
        return self._segmenters[self.rung]

    @property
    def backend(self) -> Backend:
        """The run time that it is loaded on."""
        return self._batches[self.rung].backend

    @property
    def most_frames(self) -> int:
        """How many images one run takes."""
        return self._batches[self.rung].images

    @property
    def has_confidence(self) -> bool:
        """Whether it gives one."""
        return self.backend.has_confidence

    @property
    def has_boxes(self) -> bool:
        """Whether it gives any."""
        return bool(self.detected)

    @property
    def boxes_text(self) -> str:
        """The classes of its boxes, and of a box head that is not run why; empty without any."""
        return "; ".join(
            ([", ".join(self.detected)] if self.detected else [])
            + ["none: " + line for line in dict.fromkeys(self._lacking_boxes)]
        )

    @property
    def summary(self) -> str:
        """What runs on what and why, in one line."""
        return "model %s, backend %s on %s (%s)" % (
            self.card.name,
            self.backend.name,
            self.backend.device,
            self.choice.summary,
        )

    @property
    def warnings(self) -> List[str]:
        """What works otherwise than it should, one line each."""
        # Of several sizes most say the same.
        found = dict.fromkeys(self.choice.warnings)
        found.update((line, None) for batch in self._batches for line in batch.backend.warnings)
        idle = self.most_frames - self._cameras
        if idle > 0:
            found[
                "model %s computes %d images in every run, %d of them for nothing: there are %d "
                "cameras; export it with --batch %d"
                % (self.card.name, self.most_frames, idle, self._cameras, self._cameras)
            ] = None
        if self.ladder is not None and len(self._rungs) == 1:
            found[self._one_size()] = None
        return list(found)

    def close(self) -> None:
        """Free the models, and give their memory back to the system."""
        self._made.close()
        give_memory_back()

    def _open(self, choice: BackendChoice) -> None:
        """All sizes that may run, or none."""
        if choice.times_ms and not choice.remembered:
            give_memory_back()
        self.choice = choice
        self._rungs = _rungs(self._plan.card, choice, self._plan.settings)
        self._batches: List[Batch] = []
        self._lacking_boxes: List[str] = []
        self._segmenters: List[List[Segmenter]] = []
        with ExitStack() as made:
            for rung in self._rungs:
                batch = self._open_batch(rung.card)
                made.callback(batch.close)
                self._check_batch(batch)
                self._offer_boxes(batch)
                self._batches.append(batch)
                self._segmenters.append(self._segmenters_over(batch))
            self._made = made.pop_all()

    def _open_batch(self, card: ModelCard) -> Batch:
        name, settings = self.choice.name, self._plan.settings
        options = replace(settings.options, precision=self.choice.precision)
        if settings.batch_window_ms > 0:
            batch = card.batch_for(BACKENDS[name].kind_for(options.precision), self._cameras)
            if BACKENDS[name].takes_any_batch:
                batch = self._cameras
            options = replace(options, batch=batch)
        return open_batch(card, name, options)

    def _segmenters_over(self, batch: Batch) -> List[Segmenter]:
        settings, grouping = self._plan.settings, self._plan.grouping
        resolution, detected = settings.output_resolution, settings.detected
        return [
            Segmenter(batch, resolution, grouping, geometry, detected)
            for geometry in settings.geometries
        ]

    def _offer_boxes(self, batch: Batch) -> None:
        """Where the card has a box head, and boxes are not to be those of areas."""
        if self._plan.settings.detected or self._plan.card.boxes is None:
            return
        lacking = batch.backend.lacks_boxes()
        if lacking:
            self._lacking_boxes.append(lacking)
        else:
            # Its sessions take half as much memory again: they are for those who listen.
            batch.offer_boxes()

    def _check_batch(self, batch: Batch) -> None:
        window_ms = self._plan.settings.batch_window_ms
        if window_ms > 0 and batch.images == 1:
            raise SegmentationError(
                "batch_window_ms is %g, but a run of model %s on %s takes one image; set it to 0, "
                "or export the model with --batch %d"
                % (window_ms, batch.backend.card.name, batch.backend.name, self._cameras)
            )

    def _one_size(self) -> str:
        (height, width), kind = self.card.input_size, self.backend.kind_for(self.choice.precision)
        kind = "onnx" if kind == WEIGHTS else kind
        command = self.card.command_to_add(kind, (height // 2, width // 2))
        return (
            "deadline_ms is set, but model %s has one size to run, %s: misses are counted, there "
            "is nothing to step down to; add a smaller one, for example with: %s"
            % (self.card.name, size_text(self.card.input_size), command)
        )


def _rungs(card: ModelCard, choice: BackendChoice, settings: Settings) -> List[Rung]:
    """The sizes that may run, the best first; without a deadline the card's own alone."""
    if settings.deadline_ms <= 0:
        return [Rung(card, None)]
    kind = BACKENDS[choice.name].kind_for(choice.precision)
    rungs = rungs_of(card, kind, choice.precision)
    if len(rungs) > 1 and settings.output_resolution == "network":
        raise SegmentationError(
            "deadline_ms is %g, which changes the network's size as it runs, but output_resolution "
            "is network; set it to input, or deadline_ms to 0" % settings.deadline_ms
        )
    return rungs


def _names_of_head(plan: ModelPlan) -> Tuple[str, ...]:
    """What the boxes of the card's box head are called; under a grouping its groups."""
    labels = plan.card.labels
    assert plan.card.boxes is not None
    ids = labels.ids_of(plan.card.boxes.classes)
    if plan.grouping is not None:
        labels, lut = plan.grouping.fold(labels)
        ids = tuple(dict.fromkeys(lut[list(ids)].tolist()))
    return tuple(labels.names[index] for index in ids if index != UNLABELLED)


def _check_threshold(card: ModelCard, threshold: float) -> None:
    if threshold > 0 and "confidence" not in card.outputs:
        raise SegmentationError(
            "confidence.threshold is %g, but model %s gives no confidence; set it to 0 or "
            "choose another model" % (threshold, card.name)
        )


def _check_detected(labels: LabelSet, names: Sequence[str]) -> None:
    try:
        labels.ids_of(names)
    except LabelsError as error:
        raise SegmentationError("detections.from_classes: %s" % error) from error
