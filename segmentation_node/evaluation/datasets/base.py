"""What every data set reader is: labelled frames by index, most often of files in folders."""

import os
import re
from typing import Callable, Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

import numpy as np

from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.evaluation.datasets.files import files_below, in_order, left_out, read_bytes
from segmentation_node.evaluation.frame import DrivePosition, Frame
from segmentation_node.evaluation.run.instances import instance_ids
from segmentation_node.labels import UNLABELLED, LabelSet
from segmentation_node.pictures import (
    ENDINGS,
    decode_as_stored,
    decode_rgb,
    orientation_of,
    palette_of,
    read_header,
)

_OUT_OF_RANGE = -1


class Dataset:
    """A split of a data set, read one labelled frame at a time.

    A subclass sets ``label_set`` and ``splits``, and supplies ``__len__`` and ``__getitem__``;
    one whose folder says which splits there are supplies ``splits_in`` instead. One that numbers
    instances lists their classes; ``with_instances`` asks to read them too. ``box_classes`` names
    those whose things have true boxes in its frames; one without ``has_labels`` gives boxes alone.
    Where ``is_calibrated`` a frame tells its camera. ``notes`` names what lies in its folders and
    is not read.
    """

    label_set: LabelSet
    splits: Tuple[str, ...] = ()
    instance_classes: Tuple[str, ...] = ()
    box_classes: Tuple[str, ...] = ()
    has_labels = True
    is_calibrated = False
    notes: Tuple[str, ...] = ()

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        splits = self.splits_in(root)
        if split not in splits:
            raise DatasetError("unknown split %r; expected one of %s" % (split, list(splits)))
        self.root = root
        self.split = split
        self.with_instances = with_instances and bool(self.instance_classes)
        if self.with_instances:
            self.box_classes = self.instance_classes

    @classmethod
    def splits_in(cls, root: str) -> Tuple[str, ...]:
        """The splits that there are, or can be, under this folder. Raises DatasetError."""
        return cls.splits

    def known_problems(self, limit: Optional[int] = None) -> Tuple[str, ...]:
        """Why samples cannot be read, of those of which that is known without reading them.

        With a ``limit`` among so many first ones.
        """
        return ()

    def turned_pictures(self) -> Tuple[str, ...]:
        """Pictures that their files ask to show turned, which nothing here does; reads them all."""
        return ()

    @property
    def occurring_classes(self) -> Tuple[int, ...]:
        """Train ids that occur in the data set: a network trained on it can know no others."""
        return tuple(range(len(self.label_set)))

    def name_on_card(self, name: str) -> str:
        """What a model's card calls the data set of this name; other data it calls otherwise."""
        return name

    def sample_name(self, index: int) -> str:
        """What a sample is called, without reading it."""
        return "sample %d" % index

    def drive_position(self, index: int) -> Optional[DrivePosition]:
        """A frame's place, without reading it; None where frames are single images."""
        return None

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Frame:
        raise NotImplementedError


class Files:
    """The files below a folder whose names end in one of ``endings``, in upper or lower case.

    A key is the rest of a path. ``wanted`` is the ending that a missing file is said to lack,
    ``find`` lists a folder; one that is not there has no files. ``others`` are those of no such
    ending.
    """

    def __init__(
        self,
        folder: str,
        *endings: str,
        wanted: str = "",
        find: Callable[[str], Iterable[str]] = files_below,
    ) -> None:
        self.folder = folder
        self.others: List[str] = []
        self.kind = "pictures" if endings == ENDINGS else "files *" + endings[0]
        self._wanted = wanted or endings[0]
        self._by_key: Dict[str, List[str]] = {}
        for path in find(folder) if os.path.isdir(folder) else ():
            ending = next((end for end in endings if path.lower().endswith(end.lower())), "")
            if ending:
                key = path[: -len(ending)]
                self._by_key.setdefault(key, []).append(os.path.join(folder, path))
            else:
                self.others.append(path)

    def keys(self) -> Set[str]:
        """Keys of all files."""
        return set(self._by_key)

    def path(self, key: str) -> str:
        """The file of a key; where there is none, the one that is missing."""
        found = self._by_key.get(key)
        return found[0] if found else os.path.join(self.folder, key + self._wanted)

    def problem(self, key: str, asked_by: str) -> str:
        """Why there is not one file of a key; empty where there is. ``asked_by`` misses it."""
        found = self._by_key.get(key, [])
        if not found:
            return "%s: no such file, but %s" % (self.path(key), asked_by)
        if len(found) > 1:
            return "%s: %s has the same stem; keep one of them" % (found[0], found[1])
        return ""

    def only(self, key: str) -> str:
        """The file of a key that there is. Raises DatasetError where there are two."""
        problem = self.problem(key, "it was listed")
        if problem:
            raise DatasetError(problem)
        return self.path(key)

    def of_others(self, ending: str) -> "Files":
        """The files of another ending below the same folder, without reading it again."""
        return Files(self.folder, ending, find=lambda _: self.others)

    def left_out(self, by_design: Optional[str] = None) -> Tuple[str, ...]:
        """A note of the other files, but for those in whose path the pattern is found."""
        others = [p for p in self.others if by_design is None or not re.search(by_design, p)]
        return left_out(self.folder, "no " + self.kind, others)


class SampleFiles(NamedTuple):
    """Where one sample is; ``problem`` says why it cannot be read, where that is known."""

    name: str
    image: str
    labels: str
    instances: str = ""
    problem: str = ""


class FileDataset(Dataset):
    """A data set whose subclass finds the files of a split when it is opened.

    A sample whose one file is missing, or there twice, raises DatasetError when it is read, as a
    broken picture does.
    """

    instance_lut: np.ndarray

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        super().__init__(root, split, with_instances)
        self.samples = self._find()

    def _find(self) -> List[SampleFiles]:
        raise NotImplementedError

    def known_problems(self, limit: Optional[int] = None) -> Tuple[str, ...]:
        return tuple(files.problem for files in self.samples[:limit] if files.problem)

    def _read_labels(self, path: str, image_hwc: np.ndarray) -> np.ndarray:
        return read_labels(path, self.label_set, image_hwc)

    def turned_pictures(self) -> Tuple[str, ...]:
        paths = [sample.image for sample in self.samples if os.path.isfile(sample.image)]
        return tuple(path for path in paths if orientation_of(read_bytes(path)) != 1)

    def __len__(self) -> int:
        return len(self.samples)

    def sample_name(self, index: int) -> str:
        return self.samples[index].name

    def files_of(self, index: int) -> SampleFiles:
        """Where a sample is. Raises DatasetError where it is known that it cannot be read."""
        files = self.samples[index]
        if files.problem:
            raise DatasetError(files.problem)
        return files

    def __getitem__(self, index: int) -> Frame:
        files = self.files_of(index)
        image = read_image(files.image)
        labels = self._read_labels(files.labels, image)
        instances = None
        if self.with_instances:
            instances = read_instances(files.instances, self.instance_lut, image)
        position = self.drive_position(index)
        return Frame(files.name, image, labels, instances, position=position)


def read_image(path: str) -> np.ndarray:
    """Read a colour image: uint8 RGB (H, W, 3). Raises DatasetError that names the file."""
    return _decoded(path, decode_rgb)


def read_stored(path: str, image_hwc: np.ndarray) -> np.ndarray:
    """Read a label image as it is: uint8 or uint16, (H, W), or (H, W, channels) with blue first.

    Of a palette the indices are the ids. Raises DatasetError where the file is no image, may have
    lost ids to compression, or has another size than its image.
    """
    stored = _decoded(path, _decode_ids)
    if stored.shape[:2] != image_hwc.shape[:2]:
        is_turned = stored.shape[1::-1] == image_hwc.shape[:2]
        raise DatasetError(
            "%s: labels are %dx%d but their image is %dx%d%s"
            % (
                path,
                stored.shape[1],
                stored.shape[0],
                image_hwc.shape[1],
                image_hwc.shape[0],
                ", as it lies in its file, which no orientation turns" if is_turned else "",
            )
        )
    return stored


def read_palette(path: str) -> np.ndarray:
    """The colours of a palette PNG by index: uint8 (N, 3) RGB; (0, 3) of any other picture.

    The file is one that ``read_stored`` has read. Raises DatasetError where it is gone.
    """
    return _decoded(path, palette_of)


def read_ids(path: str, image_hwc: np.ndarray, dtype: type, channels: int = 1) -> np.ndarray:
    """Read a label image of ids: (H, W), or (H, W, 3) BGR, of ``dtype``.

    Raises DatasetError as ``read_stored`` does, and where the file is no such image.
    """
    ids = read_stored(path, image_hwc)
    if ids.dtype != dtype or ids.shape[2:] != ((channels,) if channels > 1 else ()):
        raise DatasetError(
            "%s: found %s %s, expected a %s %d-bit label image"
            % (
                path,
                ids.dtype,
                ids.shape,
                "single-channel" if channels == 1 else "%d-channel" % channels,
                8 * np.dtype(dtype).itemsize,
            )
        )
    return ids


def to_train_ids(path: str, ids_hw: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """Map a file's ids to train ids, uint8 (H, W). Raises DatasetError on an id out of range."""
    try:
        return label_set.to_train_ids(ids_hw)
    except ValueError as error:
        raise DatasetError("%s: %s" % (path, error)) from error


def read_labels(path: str, label_set: LabelSet, image_hwc: np.ndarray) -> np.ndarray:
    """Read a label image and map its ids: train ids, uint8 (H, W).

    Raises DatasetError where the file is no single-channel 8-bit image, has another size than
    its image, or holds an id out of range.
    """
    return to_train_ids(path, read_ids(path, image_hwc, np.uint8), label_set)


def new_instance_lut(label_set: LabelSet, ids: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Instance ids by 16-bit value: int32 (65536,), from the value's data-set id and number."""
    known = np.isin(ids, label_set.known_dataset_ids)
    train_ids = label_set.train_id_lut()[np.where(known, ids, UNLABELLED)]
    lut = instance_ids(train_ids, numbers)
    lut[~known] = _OUT_OF_RANGE
    return lut


def read_instances(path: str, instance_lut: np.ndarray, image_hwc: np.ndarray) -> np.ndarray:
    """Read a 16-bit instance image: int32 (H, W) as ``run.instances`` defines it."""
    values = read_ids(path, image_hwc, np.uint16)
    instances = instance_lut[values]
    unknown = np.unique(values[instances == _OUT_OF_RANGE]).tolist()
    if unknown:
        raise DatasetError(
            "%s: instance values %s hold no class id of the data set" % (path, unknown[:10])
        )
    return instances


def paired(
    images: Files, labels: Files, layout: str, asked: Optional[Dict[str, str]] = None
) -> List[SampleFiles]:
    """A sample, called by its key, for every file of either, in order.

    ``asked`` are the keys that a list asks for, in its order, and why each is missed. Raises
    DatasetError on a folder that is missing or empty.
    """
    for files in (images, labels):
        require_folder(files.folder, layout)
        if not files.keys():
            found = ", but %s" % files.others[0] if files.others else ""
            raise DatasetError(
                "%s: no %s%s; expected %s" % (files.folder, files.kind, found, layout)
            )
    samples = []
    for key in asked or in_order(images.keys() | labels.keys()):
        problem = images.problem(key, asked[key] if asked else labels.path(key) + " is there")
        problem = problem or labels.problem(
            key, asked[key] if asked else images.path(key) + " is there"
        )
        samples.append(SampleFiles(key, images.path(key), labels.path(key), problem=problem))
    return samples


def require_folder(path: str, layout: str) -> None:
    """Raise DatasetError unless ``path`` is a folder; ``layout`` says what should be there."""
    if not os.path.isdir(path):
        raise DatasetError("%s: no such folder; expected %s" % (path, layout))


def _decoded(path: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return decode(read_bytes(path))
    except ImageError as error:
        raise DatasetError("%s: %s" % (path, error)) from error


def _decode_ids(data: bytes) -> np.ndarray:
    header = read_header(data)
    if header.is_lossy:
        raise ImageError("a %s: its compression changes ids; save labels as PNG" % header.format)
    return decode_as_stored(data)
