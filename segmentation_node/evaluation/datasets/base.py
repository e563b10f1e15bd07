"""What every data set reader is: labelled frames by index, most often of files in folders."""

import os
from typing import Callable, List, NamedTuple, Optional, Set, Tuple

import numpy as np

from segmentation_node.errors import DatasetError, ImageError
from segmentation_node.evaluation.datasets.listing import files_below, in_order
from segmentation_node.evaluation.frame import DrivePosition, Frame
from segmentation_node.evaluation.run.instances import instance_ids
from segmentation_node.labels import UNLABELLED, LabelSet
from segmentation_node.pictures import decode_as_stored, decode_rgb, palette_of, read_header

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

    @property
    def occurring_classes(self) -> Tuple[int, ...]:
        """Train ids that occur in the data set: a network trained on it can know no others."""
        return tuple(range(len(self.label_set)))

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


class Files(NamedTuple):
    """The files under a folder whose names end in a suffix; a key is the rest of their path."""

    folder: str
    suffix: str

    def path(self, key: str) -> str:
        """The file of a key, whether it is there or not."""
        return os.path.join(self.folder, key + self.suffix)

    def keys(self) -> Set[str]:
        """Keys of all files, in subfolders too; none where there is no such folder."""
        found = files_below(self.folder) if os.path.isdir(self.folder) else ()
        return {path[: -len(self.suffix)] for path in found if path.endswith(self.suffix)}


class SampleFiles(NamedTuple):
    """Where one sample is."""

    name: str
    image: str
    labels: str
    instances: str


class FileDataset(Dataset):
    """A data set whose subclass finds the files of a split when it is opened."""

    instance_lut: np.ndarray

    def __init__(self, root: str, split: str, with_instances: bool = False) -> None:
        super().__init__(root, split, with_instances)
        self.samples = self._find()

    def _find(self) -> List[SampleFiles]:
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.samples)

    def sample_name(self, index: int) -> str:
        return self.samples[index].name

    def __getitem__(self, index: int) -> Frame:
        files = self.samples[index]
        image = read_image(files.image)
        labels = read_labels(files.labels, self.label_set, image)
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
        raise DatasetError(
            "%s: labels are %dx%d but their image is %dx%d"
            % (path, stored.shape[1], stored.shape[0], image_hwc.shape[1], image_hwc.shape[0])
        )
    return stored


def read_palette(path: str) -> np.ndarray:
    """The colours of a palette PNG by index: uint8 (N, 3) RGB; (0, 3) of any other picture.

    Raises DatasetError where the file is no image.
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


def labelled_keys(images: Files, labels: Files, layout: str) -> List[str]:
    """The keys that images and labels share, in order.

    Raises DatasetError on a folder that is missing or empty, and on an image without labels or
    labels without their image.
    """
    found = []
    for files in (images, labels):
        require_folder(files.folder, layout)
        found.append(files.keys())
        if not found[-1]:
            raise DatasetError(
                "%s: no files *%s; expected %s" % (files.folder, files.suffix, layout)
            )
    for there, absent in ((0, 1), (1, 0)):
        missing = in_order(found[there] - found[absent])
        if missing:
            present, wanted = (images, labels)[there], (images, labels)[absent]
            raise DatasetError(
                "%s: no such file, but %s is there (%d files like it); expected %s"
                % (wanted.path(missing[0]), present.path(missing[0]), len(missing), layout)
            )
    return in_order(found[0])


def require_folder(path: str, layout: str) -> None:
    """Raise DatasetError unless ``path`` is a folder; ``layout`` says what should be there."""
    if not os.path.isdir(path):
        raise DatasetError("%s: no such folder; expected %s" % (path, layout))


def _decoded(path: str, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        with open(path, "rb") as file:
            return decode(file.read())
    except OSError as error:
        raise DatasetError("%s: %s" % (path, error.strerror)) from error
    except ImageError as error:
        raise DatasetError("%s: %s" % (path, error)) from error


def _decode_ids(data: bytes) -> np.ndarray:
    header = read_header(data)
    if header.is_lossy:
        raise ImageError("a %s: its compression changes ids; save labels as PNG" % header.format)
    return decode_as_stored(data)
