"""The model that a session's cameras share: which one, on what, and its segmenters."""

import ctypes
import os
from dataclasses import dataclass, replace
from typing import List, Optional, Sequence

from segmentation_node.backends import BACKENDS, Backend, BackendChoice, choose_backend
from segmentation_node.errors import LabelsError, SegmentationError
from segmentation_node.labels import Grouping, LabelSet, read_grouping
from segmentation_node.model_card import ModelCard, open_model
from segmentation_node.pipeline import Segmenter, open_batch
from segmentation_node.ros.parameters import Settings


@dataclass(frozen=True)
class ModelPlan:
    """A model as the settings ask for it: all that can be checked before anything is loaded."""

    settings: Settings
    card: ModelCard
    choice: BackendChoice
    grouping: Optional[Grouping]


def plan_model(settings: Settings, threshold: float) -> ModelPlan:
    """What to load; ``threshold`` is that of the confidence. Raises SegmentationError."""
    card = open_model(settings.model)
    _check_threshold(card, threshold)
    grouping = _read_grouping(settings.grouping, card.labels)
    _check_detected(card, grouping, settings.detected)
    return ModelPlan(settings, card, _choose_backend(card, settings), grouping)


class LoadedModel:
    """A warm model and every camera's segmenter over it; belongs to the thread that opened it."""

    def __init__(self, plan: ModelPlan, cameras: int) -> None:
        """Raises BackendError or CardError."""
        self.card, self.choice, settings = plan.card, plan.choice, plan.settings
        self.precision = settings.options.precision
        options = settings.options
        if settings.batch_window_ms > 0 and BACKENDS[plan.choice.name].takes_any_batch:
            options = replace(options, batch=cameras)
        resolution = settings.output_resolution
        self.batch = open_batch(plan.card, plan.choice.name, options)
        try:
            self._check_batch(settings.batch_window_ms, cameras)
            self.segmenters = [
                Segmenter(self.batch, resolution, plan.grouping, geometry, settings.detected)
                for geometry in settings.geometries
            ]
        except BaseException:
            self.batch.close()
            raise
        self.labels = self.segmenters[0].labels

    @property
    def backend(self) -> Backend:
        """The run time that it is loaded on."""
        return self.batch.backend

    @property
    def most_frames(self) -> int:
        """How many images one run takes."""
        return self.batch.images

    @property
    def has_confidence(self) -> bool:
        """Whether it gives one."""
        return self.backend.has_confidence

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
        cameras = len(self.segmenters)
        idle = self.batch.images - cameras
        if idle <= 0:
            return self.backend.warnings
        return self.backend.warnings + [
            "model %s computes %d images in every run, %d of them for nothing: there are %d "
            "cameras; export it with --batch %d"
            % (self.card.name, self.batch.images, idle, cameras, cameras)
        ]

    def close(self) -> None:
        """Free the model, and give its memory back to the system."""
        self.batch.close()
        give_memory_back()

    def _check_batch(self, window_ms: float, cameras: int) -> None:
        if window_ms > 0 and self.batch.images == 1:
            raise SegmentationError(
                "batch_window_ms is %g, but a run of model %s on %s takes one image; set it to 0, "
                "or export the model with --batch %d"
                % (window_ms, self.card.name, self.backend.name, cameras)
            )


def give_memory_back() -> None:
    """Have glibc return what it holds free between what is in use.

    Of itself it returns next to nothing: 10 MB more stay with every other model that is loaded.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have none
        trim(0)


def _check_threshold(card: ModelCard, threshold: float) -> None:
    if threshold > 0 and "confidence" not in card.outputs:
        raise SegmentationError(
            "confidence.threshold is %g, but model %s gives no confidence; set it to 0 or "
            "choose another model" % (threshold, card.name)
        )


def _read_grouping(path: str, labels: LabelSet) -> Optional[Grouping]:
    if not path:
        return None
    grouping = read_grouping(os.path.expanduser(path))
    grouping.fold(labels)  # what does not fit is told before anything is loaded
    return grouping


def _check_detected(card: ModelCard, grouping: Optional[Grouping], names: Sequence[str]) -> None:
    labels = card.labels if grouping is None else grouping.fold(card.labels)[0]
    try:
        labels.ids_of(names)
    except LabelsError as error:
        raise SegmentationError("detections.from_classes: %s" % error) from error


def _choose_backend(card: ModelCard, settings: Settings) -> BackendChoice:
    if settings.backend == "auto":
        return choose_backend(card, settings.options)
    asked = "as the parameter backend asks"
    return BackendChoice(settings.backend, asked, asked)
