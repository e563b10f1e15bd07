"""Splits of a data set for training: decoded once onto the device, or streamed from the disk."""

import copy
import os
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import torch

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.frame import Frame
from training.augment import Images
from training.errors import TrainingError

MEMORY_SHARE = 0.3
"""Of the device's free memory that decoded images may take: the network needs the rest, and the
host holds them twice while it stacks them. On the way to a GPU, of all memory of the host too."""
LOOKAHEAD = 3
"""Batches that a streaming split reads ahead."""


class Reader:
    """Reads samples in threads. Decoders release Python's lock; data sets need not be
    thread-safe, because each thread reads through its own copy."""

    def __init__(self, dataset: Dataset, limit: int | None, workers: int | None) -> None:
        self.dataset = dataset
        self.count = len(dataset) if limit is None else min(limit, len(dataset))
        self.names = [dataset.sample_name(index) for index in range(self.count)]
        self.workers = workers or min(8, os.cpu_count() or 1)
        self._local = threading.local()

    def read(self, index: int) -> Frame:
        """One sample, read in the calling thread."""
        if not hasattr(self._local, "dataset"):
            self._local.dataset = copy.copy(self.dataset)
        return self._local.dataset[index]

    def problem(self, index: int) -> str | None:
        """Why a sample cannot be read; None where it can."""
        try:
            self.read(index)
        except DatasetError as error:
            return str(error)
        return None

    def read_all(self) -> list[Frame]:
        """All samples, in order; each thread reads neighbours, which some data sets cache."""
        chunk = -(-self.count // self.workers)
        starts = range(0, self.count, max(1, chunk))
        with ThreadPoolExecutor(self.workers) as pool:
            parts = pool.map(lambda start: self._read_range(start, start + chunk), starts)
            return [sample for part in parts for sample in part]

    def _read_range(self, start: int, stop: int) -> list[Frame]:
        return [self.read(index) for index in range(start, min(stop, self.count))]


class WithoutBroken(Dataset):
    """A data set without the samples that cannot be read; ``left_out`` says which, and why.

    Reads everything once. Raises DatasetError where nothing is left.
    """

    def __init__(self, dataset: Dataset, workers: int | None = None) -> None:
        self.root, self.split, self.with_instances = dataset.root, dataset.split, False
        self.label_set = dataset.label_set
        self._dataset = dataset
        reader = Reader(dataset, None, workers)
        with ThreadPoolExecutor(reader.workers) as pool:
            found = list(pool.map(reader.problem, range(len(dataset))))
        self._indices = [index for index, problem in enumerate(found) if problem is None]
        self.left_out = [problem for problem in found if problem is not None]
        if not self._indices:
            raise DatasetError(f"nothing of {self.split} can be read: {self.left_out[0]}")

    def __copy__(self) -> "WithoutBroken":
        # Threads read through copies: what is read has to be one too.
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), _dataset=copy.copy(self._dataset))
        return twin

    @property
    def occurring_classes(self) -> tuple[int, ...]:
        return self._dataset.occurring_classes

    def name_on_card(self, name: str) -> str:
        return self._dataset.name_on_card(name)

    def sample_name(self, index: int) -> str:
        return self._dataset.sample_name(self._indices[index])

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Frame:
        return self._dataset[self._indices[index]]


def open_data(
    name: str, root: str, split: str, skip_broken: bool = False, limit: int | None = None
) -> Dataset:
    """A split of a data set to learn from; says on stderr what of it is left out.

    ``skip_broken`` reads all of it and leaves out what cannot be read, which is a DatasetError
    otherwise: at once where a file of the first ``limit`` samples is missing, later where it
    cannot be read.
    """
    dataset = open_dataset(name, root, split)
    for note in dataset.notes:
        print(f"warning: {note}", file=sys.stderr)
    if not skip_broken:
        problems = dataset.known_problems(limit)
        if problems:
            raise DatasetError(
                f"{problems[0]} (the first of {len(problems)}); "
                "--skip-broken leaves such pictures out"
            )
        return dataset
    sound = WithoutBroken(dataset)
    for problem in sound.left_out:
        print(f"warning: left out: {problem}", file=sys.stderr)
    return sound


class Split:
    """A decoded split on the device.

    ``images`` is uint8 (N, H, W, 3) and ``labels`` uint8 (N, H, W) where all sizes are equal,
    else lists of (H, W, 3) and (H, W).
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        limit: int | None = None,
        workers: int | None = None,
    ) -> None:
        reader = Reader(dataset, limit, workers)
        self.names = reader.names
        self.images, self.labels = _collate(reader.read_all(), device)
        self.device = device
        self.label_set = dataset.label_set
        self.classes = len(dataset.label_set)

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, plan: Iterable[Sequence[int]]) -> Iterator[tuple[Images, Images]]:
        """Images and labels of each group of indices."""
        for indices in plan:
            chosen = torch.as_tensor(indices)
            yield _select(self.images, chosen), _select(self.labels, chosen)

    def label_counts(self) -> torch.Tensor:
        """Pixels by image and class: int64 (N, classes), on the CPU."""
        counts = [_count(labels.cpu().numpy(), self.classes) for labels in self.labels]
        return torch.stack(counts)


class StreamingSplit:
    """A split that is read from the disk in threads while the network computes."""

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        limit: int | None = None,
        workers: int | None = None,
    ) -> None:
        self.reader = Reader(dataset, limit, workers)
        self.names = self.reader.names
        self.device = device
        self.label_set = dataset.label_set
        self.classes = len(dataset.label_set)

    def __len__(self) -> int:
        return self.reader.count

    def batches(self, plan: Iterable[Sequence[int]]) -> Iterator[tuple[Images, Images]]:
        """Images and labels of each group of indices, read ahead of their use."""
        waiting: deque[list[Future[Frame]]] = deque()
        with ThreadPoolExecutor(self.reader.workers) as pool:
            for indices in plan:
                waiting.append([pool.submit(self.reader.read, int(index)) for index in indices])
                if len(waiting) > LOOKAHEAD:
                    yield self._collect(waiting.popleft())
            while waiting:
                yield self._collect(waiting.popleft())

    def label_counts(self) -> torch.Tensor:
        """Pixels by image and class: int64 (N, classes), on the CPU. Reads the whole split."""
        with ThreadPoolExecutor(self.reader.workers) as pool:
            counted = pool.map(self._count, range(len(self)))
            return torch.stack(list(counted))

    def _count(self, index: int) -> torch.Tensor:
        return _count(_labels(self.reader.read(index)), self.classes)

    def _collect(self, futures: list[Future[Frame]]) -> tuple[Images, Images]:
        return _collate([future.result() for future in futures], self.device, pin=True)


AnySplit = Split | StreamingSplit


def open_split(
    dataset: Dataset,
    device: torch.device,
    place: str = "auto",
    limit: int | None = None,
    workers: int | None = None,
) -> AnySplit:
    """Decode a split onto the device (``memory``) or stream it (``stream``).

    ``auto`` keeps in memory what takes at most ``MEMORY_SHARE`` of the device's free memory.
    """
    count = len(dataset) if limit is None else min(limit, len(dataset))
    if place == "auto":
        place = "memory" if _size_bytes(dataset, count) < _free_bytes(device) else "stream"
    kind = Split if place == "memory" else StreamingSplit
    return kind(dataset, device, limit, workers)


def _size_bytes(dataset: Dataset, count: int) -> int:
    sample = dataset[0]
    return count * (sample.image_hwc.nbytes + _labels(sample).nbytes)


def _labels(frame: Frame) -> np.ndarray:
    if frame.truth_hw is None:
        raise TrainingError(f"{frame.name}: no pixel is labelled; there is nothing to learn")
    return frame.truth_hw


def _free_bytes(device: torch.device) -> float:
    is_cuda = device.type == "cuda"
    # Free pages do not count the disk's cache, which may be most of a large host.
    pages = os.sysconf("SC_PHYS_PAGES" if is_cuda else "SC_AVPHYS_PAGES")
    host = pages * os.sysconf("SC_PAGE_SIZE")
    free = min(host, torch.cuda.mem_get_info(device)[0]) if is_cuda else host
    return free * MEMORY_SHARE


def _collate(samples: Sequence[Frame], device: torch.device, pin: bool = False) -> tuple[Any, Any]:
    images = _join([sample.image_hwc for sample in samples], device, pin)
    return images, _join([_labels(sample) for sample in samples], device, pin)


def _join(arrays: Sequence[np.ndarray], device: torch.device, pin: bool) -> Images:
    if len({array.shape for array in arrays}) == 1:
        return _move(np.stack(arrays), device, pin)
    return [_move(np.ascontiguousarray(array), device, pin) for array in arrays]


def _move(array: np.ndarray, device: torch.device, pin: bool) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    # Pinned memory is copied while the network computes; a whole split would pin too much.
    if pin and device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=pin)


def _select(images: Images, chosen: torch.Tensor) -> Images:
    if isinstance(images, torch.Tensor):
        return images[chosen.to(images.device, non_blocking=True)]
    return [images[index] for index in chosen.tolist()]


def _count(labels_hw: np.ndarray, classes: int) -> torch.Tensor:
    # Ten times as fast as bincount, and exact: float32 counts to 16 million.
    counts = cv2.calcHist([labels_hw], [0], None, [256], [0, 256])
    return torch.from_numpy(counts[:classes, 0]).long()
