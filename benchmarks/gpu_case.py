"""One row of the GPU table: a network, at one size and batch, in one precision and execution.

Frames of the street drive go through the torch backend one batch at a time. Its stages come from
CUDA events on the GPU (staging, upload, network, download) and from the host's clock (preprocess,
run = all of the backend's part, end_to_end = preprocess and run).
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.measured_models import RANDOM, forget_compiled, model_named
from benchmarks.options import Size, size_text
from segmentation_node.backends import Backend, BackendOptions, open_backend
from segmentation_node.errors import BackendError
from segmentation_node.evaluation.datasets.street import StreetDrive
from segmentation_node.images import place, to_network
from segmentation_node.model_card import ModelCard

CAMERA_SIZE = (720, 1280)
PERCENTILES = (50, 95, 99)


class Case(NamedTuple):
    """What a row is about."""

    network: str
    size: Size
    batch: int
    precision: str
    execution: str

    def keys(self) -> dict[str, Any]:
        """As in the JSON."""
        return {**self._asdict(), "size": size_text(self.size)}


def camera_frames(count: int) -> list[np.ndarray]:
    """Street frames as a camera gives them: uint8 RGB (720, 1280, 3)."""
    drive = StreetDrive(seed=8, width=CAMERA_SIZE[1], height=CAMERA_SIZE[0])
    # Far apart, so that they differ.
    return [drive.frame(5 * index)[0] for index in range(count)]


class Speed:
    """Measures cases on one device; keeps the CPU's class maps, which all are compared with."""

    def __init__(self, device: str, frames: list[np.ndarray], folder: Path) -> None:
        self.device = device
        self.frames = frames
        self._folder = folder
        self._cards: dict[str, ModelCard] = {}
        self._expected: dict[tuple[str, Size], list[np.ndarray]] = {}

    def card(self, network: str, size: Size) -> ModelCard:
        """The network's card with its input at this size."""
        if network not in self._cards:
            self._cards[network] = model_named(network, self._folder)
        card = self._cards[network]
        return replace(card, input=replace(card.input, height=size[0], width=size[1]))

    def expected(self, network: str, size: Size) -> list[np.ndarray]:
        """Class maps (H, W) of the frames on the CPU in fp32."""
        if (network, size) not in self._expected:
            card = self.card(network, size)
            with open_backend("torch", card, BackendOptions(device="cpu")) as backend:
                self._expected[network, size] = _class_maps(backend, self.frames)
        return self._expected[network, size]

    def measure(self, case: Case, frames: int, warm_up: int) -> dict[str, Any]:
        """The row: what was measured, or under ``error`` why it could not be."""
        card = self.card(case.network, case.size)
        weights = RANDOM if card.weights.data == RANDOM else card.name
        options = BackendOptions(
            device=self.device,
            precision=case.precision,
            execution=case.execution,
            batch=case.batch,
        )
        row = {**case.keys(), "weights": weights}
        expected = self.expected(case.network, case.size)
        try:
            row.update(self._measure(card, options, frames, warm_up, expected))
        except BackendError as error:
            row["error"] = str(error)
        finally:
            forget_compiled(case.execution)
        return row

    def _measure(
        self,
        card: ModelCard,
        options: BackendOptions,
        frames: int,
        warm_up: int,
        expected: list[np.ndarray],
    ) -> dict[str, Any]:
        reset_peak_memory(self.device)
        start_s = time.perf_counter()
        with open_backend("torch", card, options) as backend:
            load_s = time.perf_counter() - start_s
            backend.time_stages()  # type: ignore[attr-defined]  # the torch backend has it
            image_nhwc = np.zeros(backend.input_shape, np.uint8)
            laps = [self._frame(backend, image_nhwc, n) for n in range(warm_up + frames)][warm_up:]
            found = {
                "device": backend.device,
                "load_s": round(load_s, 3),
                "frames": frames,
                "peak_gpu_memory_mib": peak_memory_mib(self.device),
                "warnings": backend.warnings,
                "agreement": _agreement(_class_maps(backend, self.frames), expected),
            }
        stages_ms = {stage: _percentiles([lap[stage] for lap in laps]) for stage in laps[0]}
        images_per_s = options.batch * 1e3 / stages_ms["end_to_end"]["p50"]
        return {**found, "images_per_s": round(images_per_s, 1), "stages_ms": stages_ms}

    def _frame(self, backend: Any, image_nhwc: np.ndarray, number: int) -> dict[str, float]:
        """Milliseconds of each stage of one batch."""
        start_s = time.perf_counter()
        for slot, image_hwc in enumerate(image_nhwc):
            self._fill(image_hwc, number + slot)
        filled_s = time.perf_counter()
        backend.run(image_nhwc)
        end_s = time.perf_counter()
        return {
            "preprocess": (filled_s - start_s) * 1e3,
            **backend.stages_ms,
            "run": (end_s - filled_s) * 1e3,
            "end_to_end": (end_s - start_s) * 1e3,
        }

    def _fill(self, image_hwc: np.ndarray, number: int) -> None:
        to_network(self.frames[number % len(self.frames)], _placed(image_hwc), image_hwc)


def _agreement(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    """Share of pixels of the same class."""
    return float((np.stack(found) == np.stack(expected)).mean())


def _class_maps(backend: Backend, frames: list[np.ndarray]) -> list[np.ndarray]:
    """Class maps (H, W) of frames; every place of the batch gets its turn."""
    image_nhwc = np.zeros(backend.input_shape, np.uint8)
    found = []
    for number, frame in enumerate(frames):
        slot = number % len(image_nhwc)
        to_network(frame, _placed(image_nhwc[slot]), image_nhwc[slot])
        found.append(backend.run(image_nhwc).class_map_nhw[slot].copy())
    return found


def _placed(image_hwc: np.ndarray) -> Any:
    return place("stretch", CAMERA_SIZE, image_hwc.shape[:2])


def _percentiles(values: list[float]) -> dict[str, float]:
    found = np.percentile(values, PERCENTILES)
    return {f"p{rank}": round(float(value), 4) for rank, value in zip(PERCENTILES, found)}


def reset_peak_memory(device: str) -> None:
    """Start to count GPU memory anew."""
    import torch

    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory_mib(device: str) -> float | None:
    """Most GPU memory that PyTorch held at a time since then; None on the CPU."""
    import torch

    if device == "cpu":
        return None
    return round(torch.cuda.max_memory_reserved(device) / 2**20, 1)
