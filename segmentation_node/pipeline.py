"""Image -> class map and stage times: the one path that the node and the evaluation share."""

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import cv2
import numpy as np

from segmentation_node.backends import (
    Backend,
    BackendOptions,
    Prediction,
    choose_backend,
    open_backend,
)
from segmentation_node.errors import ImageError
from segmentation_node.images import Box, NearestMapper, Placement, blend, place, to_network
from segmentation_node.labels import UNLABELLED, Grouping
from segmentation_node.model_card import ModelCard
from segmentation_node.pictures import LARGEST_IMAGE_PIXELS
from segmentation_node.timing import StageTimer

OUTPUT_RESOLUTIONS = ("input", "network")


@dataclass(frozen=True)
class Segmentation:
    """Class ids, uint8 (H, W), 255 = unlabelled; confidence 0-255, uint8 (H, W), or None.

    ``stages_ms`` holds preprocess, inference and postprocess. Without ``out`` arrays of the
    caller's the maps are the segmenter's own buffers: they hold until its next image.
    """

    class_map_hw: np.ndarray
    confidence_hw: Optional[np.ndarray]
    stages_ms: Dict[str, float]


class _Frame:
    """Buffers and geometry for one image size, kept while the size stays."""

    def __init__(self, placement: Placement, output_size: Tuple[int, int]) -> None:
        self.placement = placement
        self.mapper = NearestMapper(placement)
        self.class_map = np.empty(output_size, np.uint8)
        self.confidence = np.empty(output_size, np.uint8)


def open_batch(
    card: ModelCard, backend: str = "auto", options: Optional[BackendOptions] = None
) -> "Batch":
    """A card's model on the backend of this name, or on the one that ``auto`` chooses.

    It has run once, so that the first image does not pay for lazy set-up; close it when done.
    Raises BackendError or CardError.
    """
    options = options or BackendOptions()
    name = choose_backend(card, options).name if backend == "auto" else backend
    batch = Batch(open_backend(name, card, options))
    try:
        batch.warm_up()
    except BaseException:
        batch.close()
        raise
    return batch


def open_segmenter(
    card: ModelCard,
    backend: str = "auto",
    options: Optional[BackendOptions] = None,
    output_resolution: str = "input",
    grouping: Optional[Grouping] = None,
) -> "Segmenter":
    """A segmenter with an open batch of its own; close it when done.

    Raises as ``open_batch``, and LabelsError where the grouping does not fit.
    """
    batch = open_batch(card, backend, options)
    try:
        return Segmenter(batch, output_resolution, grouping)
    except BaseException:
        batch.close()
        raise


class Batch:
    """A backend and the images of its next run, one slot each; several segmenters may share it.

    A slot that no image was written into is black, or keeps that of an earlier run.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.images = backend.input_shape[0]
        self._input_nhwc = np.zeros(backend.input_shape, np.uint8)
        self._boxes: List[Optional[Box]] = [None] * self.images

    def slot(self, index: int) -> np.ndarray:
        """What the network sees of an image: uint8 (H, W, 3)."""
        return self._input_nhwc[index]

    def clear_outside(self, index: int, box: Box) -> None:
        """Make a slot black around the box (top, left, height, width) that is written next."""
        if self._boxes[index] != box:
            self._input_nhwc[index] = 0
            self._boxes[index] = box

    def run(self, with_confidence: bool) -> Prediction:
        """Segment what the slots hold. Raises BackendError."""
        return self.backend.run(self._input_nhwc, with_confidence)

    def warm_up(self) -> None:
        """Run once on what is in the slots, black at first."""
        self.run(self.backend.has_confidence)

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()


class Segmenter:
    """Segments one image at a time on a backend; ``open_segmenter`` makes one.

    ``output_resolution`` is ``input`` (maps have the image's size) or ``network`` (maps have the
    network's size, whatever the image's). A ``grouping`` folds the classes; ``labels`` is what the
    ids of the class maps mean. Raises LabelsError on one that does not fit the card's classes.

    Several cameras have a segmenter each over one batch: ``prepare`` puts an image into one of its
    slots, and after its run ``finish`` makes the maps. ``segment`` is all of it for one image.
    """

    def __init__(
        self,
        batch: Batch,
        output_resolution: str = "input",
        grouping: Optional[Grouping] = None,
    ) -> None:
        if output_resolution not in OUTPUT_RESOLUTIONS:
            raise ValueError(
                "output_resolution is %r; expected one of %s"
                % (output_resolution, list(OUTPUT_RESOLUTIONS))
            )
        self.batch = batch
        self.backend = batch.backend
        self.card = batch.backend.card
        self.output_resolution = output_resolution
        self.labels, self._fold = self.card.labels, None
        if grouping is not None:
            self.labels, self._fold = grouping.fold(self.labels)
        self._palette = self.labels.palette()
        self._frame: Optional[_Frame] = None

    def output_size(self, image_size: Tuple[int, int]) -> Tuple[int, int]:
        """Height and width of the maps for an image of this height and width."""
        if self.output_resolution == "network":
            return self.card.input_size
        return image_size

    def segment(
        self,
        image_hwc: np.ndarray,
        out_class_map_hw: Optional[np.ndarray] = None,
        out_confidence_hw: Optional[np.ndarray] = None,
        with_confidence: bool = False,
        confidence_threshold: float = 0.0,
        timer: Optional[StageTimer] = None,
    ) -> Segmentation:
        """Segment an image, uint8 RGB (H, W, 3), of any size.

        Pixels whose confidence is below the threshold (0-1) become unlabelled. The maps are
        written into the ``out`` arrays where given, uint8 (H, W) of ``output_size``. A timer
        that runs already gets the laps preprocess, inference and postprocess.
        Raises ImageError on something that is no such image.
        """
        timer = timer or StageTimer()
        wants_confidence = with_confidence or confidence_threshold > 0.0
        self.prepare(image_hwc)
        timer.lap("preprocess")
        prediction = self.batch.run(wants_confidence)
        timer.lap("inference")
        maps = self.finish(
            prediction,
            out_class_map_hw,
            out_confidence_hw,
            wants_confidence,
            confidence_threshold,
        )
        timer.lap("postprocess")
        return Segmentation(*maps, stages_ms=timer.stages_ms)

    def prepare(self, image_hwc: np.ndarray, slot: int = 0) -> None:
        """Write an image, uint8 RGB (H, W, 3), into a slot of the batch. Raises ImageError."""
        _check_image(image_hwc)
        size = image_hwc.shape[:2]
        if self._frame is None or self._frame.placement.image_size != size:
            placement = place(self.card.input.resize, size, self.card.input_size)
            self._frame = _Frame(placement, self.output_size(size))
        placement = self._frame.placement
        self.batch.clear_outside(slot, placement.network_box)
        to_network(image_hwc, placement, self.batch.slot(slot))

    def finish(
        self,
        prediction: Prediction,
        out_class_map_hw: Optional[np.ndarray] = None,
        out_confidence_hw: Optional[np.ndarray] = None,
        with_confidence: bool = False,
        confidence_threshold: float = 0.0,
        slot: int = 0,
    ) -> Tuple[np.ndarray, Optional[np.ndarray]]:
        """Class map and confidence of the image that was prepared last, from its slot's result.

        As ``segment`` gives them. With a confidence or a threshold the run had to have it too.
        """
        frame = self._frame
        assert frame is not None
        class_map = frame.class_map if out_class_map_hw is None else out_class_map_hw
        ids_hw = prediction.class_map_nhw[slot]
        if self._fold is not None:
            ids_hw = cv2.LUT(ids_hw, self._fold)
        self._map_out(ids_hw, class_map, UNLABELLED)
        if not with_confidence and confidence_threshold <= 0.0:
            return class_map, None
        assert prediction.confidence_nhw is not None
        confidence = frame.confidence if out_confidence_hw is None else out_confidence_hw
        self._map_out(prediction.confidence_nhw[slot], confidence, 0)
        if confidence_threshold > 0.0:
            class_map[confidence < confidence_threshold * 255.0] = UNLABELLED
        return class_map, confidence

    def overlay(
        self,
        image_hwc: np.ndarray,
        class_map_hw: np.ndarray,
        alpha: float,
        out_hwc: Optional[np.ndarray] = None,
        slot: int = 0,
    ) -> np.ndarray:
        """Class colours blended over the image: uint8 RGB at the class map's size.

        At network resolution the image that the network saw is the background.
        """
        seen = self.output_resolution == "network"
        background = self.batch.slot(slot) if seen else image_hwc
        return blend(background, class_map_hw, self._palette, alpha, out_hwc)

    def close(self) -> None:
        """Close the batch, and with it the backend."""
        self.batch.close()

    def __enter__(self) -> "Segmenter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _map_out(self, map_hw: np.ndarray, out_hw: np.ndarray, outside: int) -> None:
        if self.output_resolution == "network":
            np.copyto(out_hw, map_hw)
        else:
            assert self._frame is not None
            self._frame.mapper(map_hw, out_hw, outside)


def _check_image(image_hwc: np.ndarray) -> None:
    if image_hwc.dtype != np.uint8 or image_hwc.ndim != 3 or image_hwc.shape[2] != 3:
        raise ImageError(
            "the image is %s %s; expected uint8 RGB (height, width, 3)"
            % (image_hwc.dtype, image_hwc.shape)
        )
    height, width = image_hwc.shape[:2]
    if height < 1 or width < 1 or height * width > LARGEST_IMAGE_PIXELS:
        raise ImageError(
            "the image is %dx%d; expected 1 to %d pixels" % (width, height, LARGEST_IMAGE_PIXELS)
        )
