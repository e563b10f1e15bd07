"""Image -> class map and stage times: the one path that the node and the evaluation share."""

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import cv2
import numpy as np

from segmentation_node.backends import Backend, BackendOptions, choose_backend, open_backend
from segmentation_node.errors import ImageError
from segmentation_node.images import NearestMapper, Placement, blend, place, to_network
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


def open_segmenter(
    card: ModelCard,
    backend: str = "auto",
    options: Optional[BackendOptions] = None,
    output_resolution: str = "input",
    grouping: Optional[Grouping] = None,
) -> "Segmenter":
    """A card's model on the backend of this name, or on the one that ``auto`` chooses.

    It has run once, so that the first image does not pay for lazy set-up; close it when done.
    Raises BackendError, CardError, or LabelsError where the grouping does not fit.
    """
    options = options or BackendOptions()
    name = choose_backend(card, options).name if backend == "auto" else backend
    segmenter = Segmenter(open_backend(name, card, options), output_resolution, grouping)
    try:
        segmenter.warm_up()
    except BaseException:
        segmenter.close()
        raise
    return segmenter


class Segmenter:
    """Segments one image at a time on a backend; ``open_segmenter`` makes one.

    ``output_resolution`` is ``input`` (maps have the image's size) or ``network`` (maps have the
    network's size, whatever the image's). A ``grouping`` folds the classes; ``labels`` is what the
    ids of the class maps mean. Raises LabelsError on one that does not fit the card's classes.
    """

    def __init__(
        self,
        backend: Backend,
        output_resolution: str = "input",
        grouping: Optional[Grouping] = None,
    ) -> None:
        if output_resolution not in OUTPUT_RESOLUTIONS:
            raise ValueError(
                "output_resolution is %r; expected one of %s"
                % (output_resolution, list(OUTPUT_RESOLUTIONS))
            )
        self.backend = backend
        self.card = backend.card
        self.output_resolution = output_resolution
        self.labels, self._fold = self.card.labels, None
        if grouping is not None:
            self.labels, self._fold = grouping.fold(self.labels)
        self._palette = self.labels.palette()
        self._frame: Optional[_Frame] = None
        # An image goes in first place; a graph of a larger batch runs with the others black.
        self._input_nhwc = np.zeros(backend.input_shape, np.uint8)

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
        frame = self._prepare(image_hwc)
        wants_confidence = with_confidence or confidence_threshold > 0.0
        to_network(image_hwc, frame.placement, self._input_nhwc[0])
        timer.lap("preprocess")
        prediction = self.backend.run(self._input_nhwc, wants_confidence)
        timer.lap("inference")
        class_map = frame.class_map if out_class_map_hw is None else out_class_map_hw
        ids_hw = prediction.class_map_nhw[0]
        if self._fold is not None:
            ids_hw = cv2.LUT(ids_hw, self._fold)
        self._map_out(ids_hw, class_map, UNLABELLED)
        confidence = None
        if prediction.confidence_nhw is not None:
            confidence = frame.confidence if out_confidence_hw is None else out_confidence_hw
            self._map_out(prediction.confidence_nhw[0], confidence, 0)
            if confidence_threshold > 0.0:
                class_map[confidence < confidence_threshold * 255.0] = UNLABELLED
        timer.lap("postprocess")
        return Segmentation(class_map, confidence, timer.stages_ms)

    def overlay(
        self,
        image_hwc: np.ndarray,
        class_map_hw: np.ndarray,
        alpha: float,
        out_hwc: Optional[np.ndarray] = None,
    ) -> np.ndarray:
        """Class colours blended over the image: uint8 RGB at the class map's size.

        At network resolution the image that the network saw is the background.
        """
        background = self._input_nhwc[0] if self.output_resolution == "network" else image_hwc
        return blend(background, class_map_hw, self._palette, alpha, out_hwc)

    def warm_up(self) -> None:
        """Run once on a black image."""
        self.backend.run(self._input_nhwc, self.backend.has_confidence)

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()

    def __enter__(self) -> "Segmenter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _prepare(self, image_hwc: np.ndarray) -> _Frame:
        _check_image(image_hwc)
        size = image_hwc.shape[:2]
        if self._frame is None or self._frame.placement.image_size != size:
            placement = place(self.card.input.resize, size, self.card.input_size)
            self._frame = _Frame(placement, self.output_size(size))
            self._input_nhwc[...] = 0
        return self._frame

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
