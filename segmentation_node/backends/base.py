"""What every run time has in common: checks here, computation in the subclasses."""

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from segmentation_node.backends.cpu import adds_int8_exactly, threads_of_limit
from segmentation_node.errors import BackendError
from segmentation_node.labels import UNLABELLED
from segmentation_node.model_card import ModelCard

EXECUTIONS = ("auto", "eager", "graph", "compiled", "compiled_graph")
LEAST_AGREEMENT = {"fp32": 0.9999, "tf32": 0.999, "fp16": 0.999, "bf16": 0.99, "int8": 0.99}
"""Share of pixels of real images to which a trained model gives the class of fp32 on the CPU."""


@dataclass(frozen=True)
class BackendOptions:
    """How to run: ``device`` is auto, cpu, cuda or cuda:N; 0 threads are as many as ``threads``
    says.

    ``execution`` is how the work reaches the device: ``eager`` (operator by operator), ``graph``
    (one CUDA graph, recorded once), ``compiled`` (fused by torch.compile), ``compiled_graph``
    (both), or ``auto``, the backend's choice. ``batch`` is the images in a run; 0: as many as the
    artifact is made for, one where it is made for any number.
    """

    device: str = "auto"
    precision: str = "fp32"
    num_threads: int = 0
    engine_dir: str = "~/.cache/segmentation_node"
    execution: str = "auto"
    batch: int = 0

    @property
    def threads(self) -> int:
        """Of a CPU: those asked for, or what a limit of time leaves; 0: the run time's choice."""
        return self.num_threads or threads_of_limit()


def gpu_index(device: str) -> Optional[int]:
    """Of the GPU that cuda or cuda:N names, 0 where it gives none; None for anything else."""
    found = re.match(r"cuda(?::([0-9]+))?\Z", device)
    return int(found.group(1) or 0) if found else None


@dataclass(frozen=True)
class Prediction:
    """One run's result: uint8 (N, H, W) each; confidence only when asked for.

    The arrays may be the backend's own buffers: they hold until its next run.
    """

    class_map_nhw: np.ndarray
    confidence_nhw: Optional[np.ndarray]
    features_nchw: Optional[np.ndarray] = None  # float32, what a box head sees


class Backend:
    """One loaded model on one run time. Use it from one thread; close it when done.

    A subclass sets ``name``, ``artifact_kind`` (and in ``other_kinds`` those of precisions that
    have their own), ``precisions``, ``executions`` and, where they can be listed, ``devices``; it
    supplies ``unavailable``, ``_load``, ``_run`` and ``_close``; one that ``runs_boxes`` also
    ``_open_boxes``, ``_run_with_features`` and ``_run_boxes``, in fp32 whatever the precision.
    ``_load`` sets ``input_shape`` (N, H, W, 3), ``device``, and where they differ ``execution``
    (what ``auto`` became) and ``warnings`` (one line each, of what works otherwise than it should).
    """

    name = ""
    artifact_kind = ""
    other_kinds: Dict[str, str] = {}
    precisions: Tuple[str, ...] = ()
    devices: Tuple[str, ...] = ()
    executions: Tuple[str, ...] = ("auto", "eager")
    several_at_once = False  # whether a process may run several, a thread each
    runs_boxes = False  # whether it can run a box head
    boxes_kind = "onnx_boxes"
    takes_any_batch = False  # whether ``batch`` is free; else the artifact has its own

    def __init__(self, card: ModelCard, options: BackendOptions) -> None:
        """Load the card's artifact. Raises BackendError or CardError, one line each."""
        self.card = card
        self.options = options
        self.input_shape = (1, card.input.height, card.input.width, 3)
        self.device = ""
        self.execution = "eager"
        self.warnings: List[str] = []
        self._closed = False
        self._has_boxes = False
        missing = self.unavailable()
        if missing:
            raise BackendError("backend %s: %s" % (self.name, missing))
        if self.devices:
            self._check_choice("device", options.device, self.devices)
        self._check_choice("precision", options.precision, self.precisions)
        self._check_choice("execution", options.execution, self.executions)
        kind = self.kind_for(options.precision)
        self._load(card.artifact_path(kind, options.batch))
        if options.precision == "int8" and self.device == "cpu" and not adds_int8_exactly():
            self.warnings.append(
                "backend %s: this CPU has no VNNI: sums of int8 products may saturate and classes "
                "change; score the model here, or choose precision fp32" % self.name
            )
        self._check_batch(kind)

    @classmethod
    def unavailable(cls) -> str:
        """Why this machine cannot run it and what to do; empty when it can."""
        raise NotImplementedError

    @classmethod
    def kind_for(cls, precision: str) -> str:
        """Kind of the card's artifact that is loaded at this precision."""
        return cls.other_kinds.get(precision, cls.artifact_kind)

    @classmethod
    def accelerated(cls) -> bool:
        """Whether it would run on an accelerator of this machine."""
        return False

    @classmethod
    def unready(cls, card: ModelCard, options: BackendOptions) -> str:
        """Why this card cannot be run with these options on a machine that could run others.

        Empty when it can, as far as that shows without loading anything.
        """
        return ""

    @property
    def has_confidence(self) -> bool:
        """Whether the model gives a confidence."""
        return "confidence" in self.card.outputs

    def lacks_boxes(self) -> str:
        """Why it gives no boxes of the card's box head and what to do; empty when it can."""
        if self.card.boxes is None or not self.card.offers("onnx_boxes"):
            if self.card.is_resized:
                return "model %s has a box head at its own size alone, if at all, not at %dx%d" % (
                    (self.card.name,) + self.card.input_size
                )
            return "model %s has no box head; give it one with: python3 -m training.boxes %s" % (
                self.card.name,
                self.card.folder,
            )
        if not self.runs_boxes:
            return (
                "backend %s runs no box head, its graph has the class map alone; choose "
                "onnxruntime, openvino or torch for boxes" % self.name
            )
        return ""

    def lacks_boxes_at_its_precision(self) -> str:
        """The same for those who score: of a run with boxes the classes are fp32's too."""
        lacking = self.lacks_boxes()
        if lacking or self.options.precision == "fp32":
            return lacking
        return "the box head of %s runs at precision fp32, not %s" % (
            self.card.name,
            self.options.precision,
        )

    def check_boxes(self) -> None:
        """Raise BackendError or CardError where the card's box head cannot be loaded."""
        lacking = self.lacks_boxes()
        if lacking:
            raise BackendError(lacking)
        self.card.artifact_path(self.boxes_kind)

    def open_boxes(self) -> None:
        """Load the card's box head too, and run it once; a second call does nothing.

        Raises BackendError or CardError.
        """
        if self._has_boxes:
            return
        self.check_boxes()
        assert self.card.boxes is not None
        self._open_boxes()
        self._has_boxes = True
        prediction = self.run(np.zeros(self.input_shape, np.uint8), with_features=True)
        assert prediction.features_nchw is not None
        rois = np.zeros((self.card.boxes.proposals, 4), np.float32)
        self.run_boxes(prediction.features_nchw[:1], rois)

    def run_boxes(
        self, features_1chw: np.ndarray, rois_xyxy: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        """The box head on one image's features and as many boxes as the card's ``proposals``.

        Boxes are float32 (R, 4) in pixels of the network's input. Gives probabilities, float32
        (R, 1 + classes), the background first, and deltas, float32 (R, 4 * classes). After
        ``open_boxes``. Raises BackendError.
        """
        boxes = self.card.boxes
        assert self._has_boxes and boxes is not None
        scores, deltas = self._run_boxes(features_1chw, rois_xyxy)
        count, classes = boxes.proposals, len(boxes.classes)
        if scores.shape != (count, 1 + classes) or deltas.shape != (count, 4 * classes):
            raise BackendError(
                "backend %s: the box head gave scores %s and deltas %s, expected %s and %s"
                % (
                    self.name,
                    scores.shape,
                    deltas.shape,
                    (count, 1 + classes),
                    (count, 4 * classes),
                )
            )
        return scores, deltas

    def run(
        self,
        image_nhwc: np.ndarray,
        with_confidence: bool = False,
        with_features: bool = False,
    ) -> Prediction:
        """Segment a batch: uint8 RGB, C-contiguous, of ``input_shape``.

        A run with features loads the box head, where ``open_boxes`` has not, and is computed in
        fp32. Raises BackendError on another shape, dtype or layout, after ``close``, or when the
        run time itself fails; with features also CardError.
        """
        if self._closed:
            raise BackendError("backend %s: closed; open it again" % self.name)
        self._check_input(image_nhwc)
        if with_confidence and not self.has_confidence:
            raise BackendError(
                "backend %s: model %s gives no confidence; its outputs are %s"
                % (self.name, self.card.name, self.card.outputs)
            )
        if with_features:
            self.open_boxes()
            prediction = self._run_with_features(image_nhwc, with_confidence)
        else:
            prediction = self._run(image_nhwc, with_confidence)
        self._check_prediction(prediction)
        return prediction

    def close(self) -> None:
        """Free what was loaded; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._close()

    def __enter__(self) -> "Backend":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _load(self, artifact_path: str) -> None:
        raise NotImplementedError

    def _run(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError

    def _check_batch(self, kind: str) -> None:
        batch, wanted = self.input_shape[0], self.options.batch
        said = self.card.artifact(kind, wanted).batch
        problem = ""
        if said not in (None, batch):
            problem = "the model card says %d; export it anew" % said
        elif wanted not in (0, batch):
            problem = "not %d; export it with --batch %d" % (wanted, wanted)
        if problem:
            self.close()
            raise BackendError(
                "backend %s: the %s artifact of %s is made for a batch of %d, %s"
                % (self.name, kind, self.card.name, batch, problem)
            )

    def _open_boxes(self) -> None:
        raise NotImplementedError

    def _run_with_features(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        raise NotImplementedError

    def _run_boxes(
        self, features_1chw: np.ndarray, rois_xyxy: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        raise NotImplementedError

    def _check_choice(self, what: str, chosen: str, offered: Tuple[str, ...]) -> None:
        if chosen not in offered:
            raise BackendError(
                "backend %s: %s %r is not offered; choose one of %s"
                % (self.name, what, chosen, list(offered))
            )

    def _check_input(self, image_nhwc: np.ndarray) -> None:
        contiguous = image_nhwc.flags.c_contiguous
        if image_nhwc.shape != self.input_shape or image_nhwc.dtype != np.uint8 or not contiguous:
            raise BackendError(
                "backend %s: received %s %s%s, expected C-contiguous uint8 %s"
                % (
                    self.name,
                    image_nhwc.dtype,
                    image_nhwc.shape,
                    "" if contiguous else " not contiguous",
                    self.input_shape,
                )
            )

    def _check_prediction(self, prediction: Prediction) -> None:
        self._check_map(prediction.class_map_nhw, "class map")
        if prediction.confidence_nhw is not None:
            self._check_map(prediction.confidence_nhw, "confidence")
        highest = int(prediction.class_map_nhw.max())
        if highest == UNLABELLED:  # of an imported network, where nothing is above its threshold
            # One more wraps to 0, so that the highest of the others shows.
            highest = int((prediction.class_map_nhw + np.uint8(1)).max()) - 1
        if highest >= len(self.card.labels):
            raise BackendError(
                "backend %s: the model gave class %d, but label set %s of card %s has %d classes"
                % (self.name, highest, self.card.label_set, self.card.name, len(self.card.labels))
            )

    def _check_map(self, map_nhw: np.ndarray, what: str) -> None:
        if map_nhw.shape != self.input_shape[:3] or map_nhw.dtype != np.uint8:
            raise BackendError(
                "backend %s: the model gave %s %s, expected a uint8 %s %s"
                % (self.name, map_nhw.dtype, map_nhw.shape, what, self.input_shape[:3])
            )
