"""Which drives a fleet has, and what tells one from another: bags, or sequences of a data set."""

import glob
import hashlib
import json
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from segmentation_node import __version__
from segmentation_node.errors import FleetError
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.datasets.base import FileDataset
from segmentation_node.evaluation.fleet.storage import file_system, is_url, reaching
from segmentation_node.geometry import Geometry, make_geometry
from segmentation_node.labels import describe
from segmentation_node.model_card import CARD_FILE, open_model, sha256_of

LIST_ENDING = ".txt"
KEY_LENGTH = 32


@dataclass(frozen=True)
class Settings:
    """What all drives of a fleet are scored with, and where the reports go.

    ``labels`` and ``grouping`` are as in ``evaluation bag``, ``dataset``, ``root`` and ``split``
    as in ``evaluation dataset``, ``size``, ``roi``, ``rotation`` and ``ignore_mask`` as in both;
    topics are None where the bag's own stand out. ``num_threads`` is of one worker.
    """

    model: str
    output: str
    backend: str = "auto"
    device: str = "auto"
    precision: str = "fp32"
    engine_dir: str = ""
    num_threads: int = 0
    image_topic: Optional[str] = None
    truth_topic: Optional[str] = None
    labels: Optional[str] = None
    grouping: Optional[str] = None
    dataset: Optional[str] = None
    root: str = ""
    split: str = "val"
    endpoint_url: Optional[str] = None
    roi: Tuple[int, ...] = ()
    rotation: int = 0
    ignore_mask: str = ""
    size: str = ""

    def geometry(self) -> Geometry:
        """What of the images is seen and counts. Raises GeometryError."""
        return make_geometry(self.roi, self.rotation, self.ignore_mask)

    def digest(self) -> str:
        """The hash of all that a figure depends on: contents of files, not where they lie."""
        card = open_model(self.model, self.size)
        values = [
            __version__,
            sha256_of(os.path.join(card.folder, CARD_FILE)),  # it holds its artifacts' own
            [self.backend, self.device, self.precision, self.size],
            [self.image_topic, self.truth_topic],
            [_content(self.labels), _content(self.grouping)],
            [self.roi, self.rotation, _content(os.path.expanduser(self.ignore_mask))],
        ]
        return _hash(values)


@dataclass(frozen=True)
class Drive:
    """A drive to score: ``name`` is a bag's path or URL, or a sequence of the data set.

    ``indices`` are the sequence's frames in its split. ``key`` names the report, ``place`` the
    line of a drive that failed: that one may have no content to be named by.
    """

    name: str
    key: str
    place: str
    indices: Tuple[int, ...] = ()

    @property
    def report_name(self) -> str:
        return self.key + ".json"

    @property
    def failure_name(self) -> str:
        return self.place + ".failed.json"


def find_drives(given: Sequence[str], settings: Settings) -> List[Drive]:
    """The drives that are meant, each once, in order of their names.

    Raises FleetError where there is none, or where a pattern or a list matches none.
    """
    if bool(given) == bool(settings.dataset):
        raise FleetError("name the drives to score, or --dataset with --root: one of the two")
    digest = settings.digest()
    if settings.dataset:
        dataset = open_dataset(settings.dataset, settings.root, settings.split)
        return [_sequence(settings, digest, dataset, *item) for item in sorted(_parts(dataset))]
    names = sorted({name for item in given for name in _expanded(item, settings.endpoint_url)})
    return [
        Drive(name, _hash([digest, name, _identity(name, settings.endpoint_url)]), _hash([name]))
        for name in names
    ]


def shard(drives: Sequence[Drive], number: int, count: int) -> List[Drive]:
    """Every ``count``-th drive from the ``number``-th on, which counts from 1."""
    return list(drives[number - 1 :: count])


def _expanded(item: str, endpoint_url: Optional[str]) -> Iterator[str]:
    """The bags of a path, a pattern, or a list file; a path is one, whether it is there or not.

    What is there is a path: a folder may be called ``run[12]``.
    """
    if item.endswith(LIST_ENDING) and not is_url(item):
        yield from _listed(item, endpoint_url)
    elif not glob.has_magic(item) or (not is_url(item) and os.path.lexists(item)):
        yield item if is_url(item) else os.path.abspath(item)
    elif is_url(item):
        files = file_system(item, endpoint_url)
        with reaching(item):
            found = [files.unstrip_protocol(path) for path in files.glob(item)]
        yield from _some(item, found)
    else:
        yield from _some(item, [os.path.abspath(path) for path in glob.glob(item)])


def _listed(path: str, endpoint_url: Optional[str]) -> Iterator[str]:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            lines = [line.strip() for line in stream]
    except (OSError, UnicodeDecodeError) as error:
        raise FleetError("%s: no list of drives, a line each (%s)" % (path, error)) from error
    lines = _some(path, [line for line in lines if line and not line.startswith("#")])
    for line in lines:
        if line.endswith(LIST_ENDING):
            raise FleetError("%s lists %s: a list names bags, not lists" % (path, line))
        yield from _expanded(line, endpoint_url)


def _some(item: str, found: List[str]) -> List[str]:
    if not found:
        raise FleetError("%s: no drive found; expected bags, folders or .mcap or .db3 files" % item)
    return found


def _identity(name: str, endpoint_url: Optional[str]) -> List[Any]:
    """What changes with a bag's content, without reading it: sizes and times, or ETags."""
    if is_url(name):
        with reaching(name):
            found = file_system(name, endpoint_url).find(name, detail=True)
        return sorted(
            [path, item["size"], str(item.get("ETag") or item.get("created") or "")]
            for path, item in found.items()
        )
    paths = [name]
    if os.path.isdir(name):
        paths = sorted(os.path.join(name, item) for item in os.listdir(name))
    return [_state(path) for path in paths if os.path.isfile(path)]


def _state(path: str) -> List[Any]:
    """What changes with a file's content, without reading it; nothing of one that is missing."""
    if not os.path.isfile(path):
        return []
    found = os.stat(path)
    return [os.path.basename(path), found.st_size, found.st_mtime_ns]


def _parts(dataset: Dataset) -> Iterator[Tuple[str, Tuple[int, ...]]]:
    """Sequences with their frames; single images are one drive, the split."""
    found: Dict[str, List[int]] = {}
    for index in range(len(dataset)):
        position = dataset.drive_position(index)
        found.setdefault(position[0] if position else "", []).append(index)
    for name, indices in found.items():
        yield name, tuple(indices)


def _sequence(
    settings: Settings, digest: str, dataset: Dataset, name: str, indices: Tuple[int, ...]
) -> Drive:
    full = " ".join(part for part in (settings.dataset, settings.split, name) if part)
    samples = [_sample_identity(dataset, index) for index in indices]
    values = [digest, settings.root, full, describe(dataset.label_set), samples]
    return Drive(full, _hash(values), _hash([full]), indices)


def _sample_identity(dataset: Dataset, index: int) -> List[Any]:
    """A sample's name, and what changes with the files of one that has some."""
    states = []
    if isinstance(dataset, FileDataset):
        files = dataset.samples[index]
        states = [_state(files.image), _state(files.labels)]
    return [dataset.sample_name(index)] + states


def _content(path: Optional[str]) -> Optional[str]:
    """The hash of a file; a built-in label set's name as it is."""
    return sha256_of(path) if path and os.path.isfile(path) else path


def _hash(values: Any) -> str:
    return hashlib.sha256(json.dumps(values).encode("utf-8")).hexdigest()[:KEY_LENGTH]
