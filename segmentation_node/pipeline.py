"""Image -> class map and stage times: the one path that the node and the evaluation share."""

from dataclasses import dataclass, replace
from typing import Any, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from segmentation_node.backends import Backend, BackendOptions, Prediction, open_backend
from segmentation_node.backends.choice import BackendChoice, open_chosen
from segmentation_node.boxes import Boxes, non_maximum_suppression, things_of
from segmentation_node.errors import ImageError
from segmentation_node.fast_rcnn import SUPPRESSION_IOU, BoxFinder
from segmentation_node.geometry import WHOLE_IMAGE, Geometry
from segmentation_node.images import (
    Box,
    NearestMapper,
    Placement,
    blend,
    boxes_to_image,
    draw_boxes,
    place,
    to_network,
    turn_clockwise,
    turned_size,
    view,
)
from segmentation_node.labels import UNLABELLED, Grouping
from segmentation_node.model_card import ModelCard
from segmentation_node.model_health import Certainty, certainty
from segmentation_node.pictures import LARGEST_IMAGE_PIXELS
from segmentation_node.timing import StageTimer

OUTPUT_RESOLUTIONS = ("input", "network")
LEAST_SCORE_DRAWN = 0.5


@dataclass(frozen=True)
class Segmentation:
    """Class ids, uint8 (H, W), 255 = unlabelled; confidence 0-255, uint8 (H, W), or None.

    ``boxes``, where asked for, are in pixels of the image, float32. ``stages_ms`` holds preprocess,
    inference and postprocess, and with boxes detections. Without ``out`` arrays of the
    caller's the maps are the segmenter's own buffers: they hold until its next image.
    """

    class_map_hw: np.ndarray
    confidence_hw: Optional[np.ndarray]
    stages_ms: Dict[str, float]
    boxes: Optional[Boxes] = None


class _Frame:
    """Ways into the network and back for one image size, kept with their buffers while it stays."""

    def __init__(
        self,
        card: ModelCard,
        geometry: Geometry,
        image_size: Tuple[int, int],
        output_resolution: str,
    ) -> None:
        """Raises ImageError where the geometry is none of an image of this size."""
        self.image_size = image_size
        self.window = geometry.window(image_size)
        self._covers_image = self.window == (0, 0) + image_size
        self._rotation = geometry.rotation
        upright_size = turned_size(self.window[2:], self._rotation)
        self.placement = place(card.input.resize, upright_size, card.input_size)
        self._upright = np.empty(upright_size + (3,), np.uint8) if self._rotation else None
        # Where the maps show the image: not in a letterbox's border.
        self.shown_box = self.placement.network_box
        self._mapper: Optional[NearestMapper] = None
        self._ignored = geometry.ignored
        self._ignored_seen = None if self._ignored is None else self._as_seen(self._ignored)
        output_size = card.input_size
        if output_resolution == "input":
            self._mapper = NearestMapper(self.placement, self._rotation)
            output_size, self.shown_box = image_size, (0, 0) + image_size
        else:
            self._ignored = self._ignored_seen
        self._kept = None if self._ignored is None else cv2.bitwise_not(self._ignored)
        self.class_map = np.empty(output_size, np.uint8)
        self.confidence = np.empty(output_size, np.uint8)

    def to_network(self, image_hwc: np.ndarray, out_hwc: np.ndarray) -> None:
        """Write what the network is to see of an image into its input, uint8 (H, W, 3) both."""
        if not self._covers_image:
            image_hwc = view(image_hwc, self.window)
        if self._rotation:
            image_hwc = turn_clockwise(image_hwc, self._rotation, self._upright)
        to_network(image_hwc, self.placement, out_hwc)

    def class_map_out(self, ids_hw: np.ndarray, out_hw: np.ndarray) -> None:
        """Write the network's class map at the outputs' size; what was left out is unlabelled."""
        self._map_out(ids_hw, out_hw, UNLABELLED)
        if self._ignored is not None:
            cv2.bitwise_or(out_hw, self._ignored, dst=out_hw)

    def confidence_out(self, confidence_hw: np.ndarray, out_hw: np.ndarray) -> None:
        """Write its confidence at the outputs' size; what was left out has none."""
        self._map_out(confidence_hw, out_hw, 0)
        if self._kept is not None:
            cv2.bitwise_and(out_hw, self._kept, dst=out_hw)

    def certainty(self, ids_hw: np.ndarray, confidence_hw: np.ndarray) -> Optional[Certainty]:
        """How sure the network is where it saw the image and that counts."""
        box, ignored = self.placement.network_box, self._ignored_seen
        return certainty(
            view(ids_hw, box),
            view(confidence_hw, box),
            None if ignored is None else view(ignored, box),
        )

    def counting(self, ids_hw: np.ndarray) -> np.ndarray:
        """The network's class map, unlabelled where the image is to be ignored."""
        ignored = self._ignored_seen
        return ids_hw if ignored is None else cv2.bitwise_or(ids_hw, ignored)

    def boxes_out(self, boxes_xyxy: np.ndarray) -> np.ndarray:
        """Boxes in the network's input, float32 (N, 4), in pixels of the whole image."""
        boxes = boxes_to_image(boxes_xyxy, self.placement, self._rotation)
        top, left = self.window[:2]
        return boxes + np.array([left, top, left, top], np.float32)

    def _map_out(self, map_hw: np.ndarray, out_hw: np.ndarray, outside: int) -> None:
        if self._mapper is None:
            np.copyto(out_hw, map_hw)
            return
        if not self._covers_image:
            out_hw.fill(outside)
            out_hw = view(out_hw, self.window)
        self._mapper(map_hw, out_hw, outside)

    def _as_seen(self, mask_hw: np.ndarray) -> np.ndarray:
        """A mask of the image's size as the network sees it: at each pixel the nearest of it."""
        upright = view(mask_hw, self.window)
        if self._rotation:
            upright = turn_clockwise(upright, self._rotation)
        seen = np.zeros(self.placement.network_size, np.uint8)
        # The way back of a placement that puts the network's input into the image.
        swapped = Placement(
            image_size=self.placement.network_size,
            network_size=self.placement.image_size,
            image_box=self.placement.network_box,
            network_box=self.placement.image_box,
        )
        return NearestMapper(swapped)(np.ascontiguousarray(upright), seen, 0)


def open_batch(
    card: ModelCard, backend: str = "auto", options: Optional[BackendOptions] = None
) -> "Batch":
    """A card's model on the backend of this name, or on the one that ``auto`` chooses.

    ``options.precision`` may be ``auto`` as well. It has run once, so that the first image does not
    pay for lazy set-up; close it when done. Raises BackendError or CardError.
    """
    options = options or BackendOptions()
    return open_chosen(card, backend, options, lambda choice: _warm_batch(card, choice, options))


def _warm_batch(card: ModelCard, choice: BackendChoice, options: BackendOptions) -> "Batch":
    options = replace(options, precision=choice.precision)
    batch = Batch(open_backend(choice.name, card, options), choice)
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
    geometry: Geometry = WHOLE_IMAGE,
) -> "Segmenter":
    """A segmenter with an open batch of its own; close it when done.

    Raises as ``open_batch``, and LabelsError where the grouping does not fit.
    """
    batch = open_batch(card, backend, options)
    try:
        return Segmenter(batch, output_resolution, grouping, geometry)
    except BaseException:
        batch.close()
        raise


class Batch:
    """A backend and the images of its next run, one slot each; several segmenters may share it.

    A slot that no image was written into is black, or keeps that of an earlier run. ``choice`` is
    why it is this backend, where that was asked.
    """

    def __init__(self, backend: Backend, choice: Optional[BackendChoice] = None) -> None:
        self.backend = backend
        self.choice = choice
        self.images = backend.input_shape[0]
        self.box_finder: Optional[BoxFinder] = None
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

    def run(self, with_confidence: bool, with_features: bool = False) -> Prediction:
        """Segment what the slots hold; features are for the box head. Raises BackendError."""
        return self.backend.run(self._input_nhwc, with_confidence, with_features)

    def open_boxes(self) -> None:
        """Load the card's box head too: segmenters made from now on use it.

        Raises BackendError or CardError.
        """
        self.backend.open_boxes()
        self.offer_boxes()

    def offer_boxes(self) -> None:
        """The same, but load it no sooner than the first run with features.

        Raises BackendError or CardError where it cannot be loaded, as far as that shows before.
        """
        self.backend.check_boxes()
        self.box_finder = BoxFinder(self.backend)

    def warm_up(self) -> None:
        """Run once on what is in the slots, black at first."""
        self.run(self.backend.has_confidence)

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()


class Segmenter:
    """Segments one image at a time on a backend; ``open_segmenter`` makes one.

    ``output_resolution`` is ``input`` (maps have the image's size) or ``network`` (maps have the
    network's size, whatever the image's, and show what the network saw: of a roi that alone, and
    upright). A ``geometry`` says what it sees; what is left out is unlabelled. A ``grouping`` folds
    the classes; ``labels`` is what the ids of the class maps mean. ``detected`` names those of
    them whose connected areas ``detect`` gives boxes of; without names it gives those of the box
    head that the batch has open. Raises LabelsError on a grouping that does not fit the card's
    classes, and on a name that is none of its labels'.

    Several cameras have a segmenter each over one batch: ``prepare`` puts an image into one of its
    slots, and after its run ``finish`` makes the maps. ``segment`` is all of it for one image.
    """

    def __init__(
        self,
        batch: Batch,
        output_resolution: str = "input",
        grouping: Optional[Grouping] = None,
        geometry: Geometry = WHOLE_IMAGE,
        detected: Sequence[str] = (),
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
        self.geometry = geometry
        self.labels, self._fold = self.card.labels, None
        if grouping is not None:
            self.labels, self._fold = grouping.fold(self.labels)
        self.detected = self.labels.ids_of(detected)
        self.finds_by_head = not self.detected and batch.box_finder is not None
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
        with_boxes: bool = False,
    ) -> Segmentation:
        """Segment an image, uint8 RGB (H, W, 3), of any size.

        Pixels whose confidence is below the threshold (0-1) become unlabelled. The maps are
        written into the ``out`` arrays where given, uint8 (H, W) of ``output_size``. A timer
        that runs already gets the laps preprocess, inference and postprocess.
        Raises ImageError on something that is no such image, or has not the geometry's size.
        """
        timer = timer or StageTimer()
        by_head = with_boxes and self.finds_by_head
        scores_areas = with_boxes and not by_head and self.backend.has_confidence
        wants_confidence = with_confidence or confidence_threshold > 0.0 or scores_areas
        self.prepare(image_hwc)
        timer.lap("preprocess")
        prediction = self.batch.run(wants_confidence, by_head)
        timer.lap("inference")
        maps = self.finish(
            prediction,
            out_class_map_hw,
            out_confidence_hw,
            wants_confidence,
            confidence_threshold,
        )
        timer.lap("postprocess")
        boxes = None
        if with_boxes:
            boxes = self.boxes_in_image(self.detect(*maps, prediction))
            timer.lap("detections")
        return Segmentation(*maps, stages_ms=timer.stages_ms, boxes=boxes)

    def prepare(self, image_hwc: np.ndarray, slot: int = 0) -> None:
        """Write an image, uint8 RGB (H, W, 3), into a slot of the batch.

        Raises ImageError on something that is no such image, or has not the geometry's size.
        """
        _check_image(image_hwc)
        size = image_hwc.shape[:2]
        if self._frame is None or self._frame.image_size != size:
            self._frame = _Frame(self.card, self.geometry, size, self.output_resolution)
        self.batch.clear_outside(slot, self._frame.placement.network_box)
        self._frame.to_network(image_hwc, self.batch.slot(slot))

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
        frame.class_map_out(ids_hw, class_map)
        if not with_confidence and confidence_threshold <= 0.0:
            return class_map, None
        assert prediction.confidence_nhw is not None
        confidence = frame.confidence if out_confidence_hw is None else out_confidence_hw
        frame.confidence_out(prediction.confidence_nhw[slot], confidence)
        if confidence_threshold > 0.0:
            class_map[confidence < confidence_threshold * 255.0] = UNLABELLED
        return class_map, confidence

    def certainty(self, prediction: Prediction, slot: int = 0) -> Optional[Certainty]:
        """How sure the network itself is of the image that was prepared last.

        Neither grouping nor threshold play a part. None where all of it is ignored. The run had to
        have the confidence.
        """
        assert self._frame is not None and prediction.confidence_nhw is not None
        return self._frame.certainty(
            prediction.class_map_nhw[slot], prediction.confidence_nhw[slot]
        )

    @property
    def has_boxes(self) -> bool:
        """Whether ``detect`` finds anything."""
        return bool(self.detected) or self.finds_by_head

    def detect(
        self,
        class_map_hw: np.ndarray,
        confidence_hw: Optional[np.ndarray],
        prediction: Optional[Prediction] = None,
        slot: int = 0,
    ) -> Boxes:
        """Boxes of the things in the image that was prepared last, in pixels of its class map.

        ``class_map_hw`` and ``confidence_hw`` are what ``finish`` gave last, of this prediction,
        which the box head needs; the run had to have features then.
        ``boxes_in_image`` tells where they are in the image. Raises BackendError.
        """
        assert self._frame is not None
        if self.finds_by_head:
            assert prediction is not None
            return self._found_by_head(prediction, slot)
        shown_box = self._frame.shown_box
        top, left = shown_box[:2]
        boxes = things_of(
            view(class_map_hw, shown_box),
            None if confidence_hw is None else view(confidence_hw, shown_box),
            self.detected,
        )
        return boxes._replace(
            boxes_xyxy=boxes.boxes_xyxy + np.array([left, top, left, top], np.float32)
        )

    def proposals(self, prediction: Prediction, slot: int = 0) -> np.ndarray:
        """What the box head looks at in the image that was prepared last.

        Boxes, float32 (N, 4), in pixels of the image.
        """
        finder = self.batch.box_finder
        assert self._frame is not None and finder is not None
        ids_hw = self._frame.counting(prediction.class_map_nhw[slot])
        return self._frame.boxes_out(finder.propose(ids_hw))

    def _found_by_head(self, prediction: Prediction, slot: int) -> Boxes:
        finder = self.batch.box_finder
        assert self._frame is not None and finder is not None
        assert prediction.features_nchw is not None
        ids_hw = self._frame.counting(prediction.class_map_nhw[slot])
        boxes = finder.find(ids_hw, prediction.features_nchw[slot : slot + 1])
        if self._fold is not None:
            folded = self._fold.reshape(-1)[boxes.class_ids].astype(np.int64)
            boxes = boxes._replace(class_ids=folded)
            boxes = boxes.take(boxes.class_ids != UNLABELLED)
            # The head tells its classes apart, not those that are one group here.
            boxes = non_maximum_suppression(boxes, SUPPRESSION_IOU)
        if self.output_resolution == "input":
            boxes = boxes._replace(boxes_xyxy=self._frame.boxes_out(boxes.boxes_xyxy))
        return boxes

    def boxes_in_image(self, boxes: Boxes) -> Boxes:
        """Boxes in pixels of the class map as such of the whole image that was prepared last."""
        if self.output_resolution == "input":
            return boxes
        assert self._frame is not None
        return boxes._replace(boxes_xyxy=self._frame.boxes_out(boxes.boxes_xyxy))

    def overlay(
        self,
        image_hwc: np.ndarray,
        class_map_hw: np.ndarray,
        alpha: float,
        out_hwc: Optional[np.ndarray] = None,
        slot: int = 0,
        boxes: Optional[Boxes] = None,
    ) -> np.ndarray:
        """Class colours blended over the image, and boxes: uint8 RGB at the class map's size.

        Of a box head's boxes those are drawn that are more likely right than not.
        At network resolution the image that the network saw is the background.
        """
        seen = self.output_resolution == "network"
        background = self.batch.slot(slot) if seen else image_hwc
        blended = blend(background, class_map_hw, self._palette, alpha, out_hwc)
        if boxes is not None:
            least_score = LEAST_SCORE_DRAWN if self.finds_by_head else 0.0
            draw_boxes(blended, boxes.boxes_xyxy[boxes.scores >= least_score])
        return blended

    def close(self) -> None:
        """Close the batch, and with it the backend."""
        self.batch.close()

    def __enter__(self) -> "Segmenter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


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
