"""CamVid as one packed file: pictures as JPEG, labels untouched. No score is computed from it."""

import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import open_dataset
from segmentation_node.files import new_file

SPLITS = ("train", "val")
LEAST_PSNR_DB = 34.0
"""Of a picture of quality 95 against its original; CamVid's have 36 to 45."""
JPEG = (
    *(cv2.IMWRITE_JPEG_QUALITY, 95),
    *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444),
    *(cv2.IMWRITE_JPEG_OPTIMIZE, 1),
)


def pack_camvid(root: Path, path: Path) -> dict[str, int]:
    """Pack train and val of CamVid in SegNet's layout; gives the number of pictures by split.

    Raises DatasetError where it is no such folder, or the first picture does not come out again.
    """
    counts = {}
    with new_file(str(path)) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
            for split in SPLITS:
                names = _names(root, split)
                with ThreadPoolExecutor() as pool:
                    for name, picture in zip(names, pool.map(_encoded, names), strict=True):
                        archive.writestr(f"{split}/{name.stem}.jpg", picture)
                        labels = root / f"{split}annot" / name.name
                        archive.write(labels, f"{split}annot/{name.name}")
                counts[split] = len(names)
        with zipfile.ZipFile(partial) as archive:
            _check_one(archive, root)
    return counts


def unpack_camvid(path: Path, root: Path) -> None:
    """Make the folder that ``open_dataset("camvid", root, ...)`` reads."""
    for split in SPLITS:
        (root / split).mkdir(parents=True)
        (root / f"{split}annot").mkdir()
    with zipfile.ZipFile(path) as archive, ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda entry: _write(entry, root), _entries(archive)):
            pass


def _names(root: Path, split: str) -> list[Path]:
    """The split's pictures, in its order."""
    dataset = open_dataset("camvid", str(root), split)
    return [root / split / dataset.sample_name(index) for index in range(len(dataset))]


def _encoded(path: Path) -> bytes:
    """A picture as JPEG."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise DatasetError(f"{path}: not a readable image; expected a whole PNG file")
    return cv2.imencode(".jpg", picture, JPEG)[1].tobytes()


def _entries(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    return ((name, archive.read(name)) for name in archive.namelist())


def _write(entry: tuple[str, bytes], root: Path) -> None:
    name, content = entry
    path = root / name
    if path.suffix == ".jpg":
        path = path.with_suffix(".png")
        content = cv2.imencode(".png", _decoded(content))[1].tobytes()
    path.write_bytes(content)


def _decoded(content: bytes) -> np.ndarray:
    picture = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert isinstance(picture, np.ndarray), "a picture that pack_camvid wrote"
    return picture


def _check_one(archive: zipfile.ZipFile, root: Path) -> None:
    """Raise DatasetError unless the first picture and its labels are what was packed."""
    name = _names(root, SPLITS[0])[0]
    packed = _decoded(archive.read(f"{SPLITS[0]}/{name.stem}.jpg")).astype(float)
    error = np.mean((packed - cv2.imread(str(name), cv2.IMREAD_COLOR)) ** 2)
    if error > 255**2 / 10 ** (LEAST_PSNR_DB / 10):
        raise DatasetError(f"{name}: as JPEG it differs by {error**0.5:.1f} of 255, too much")
    labels = f"{SPLITS[0]}annot/{name.name}"
    if archive.read(labels) != (root / labels).read_bytes():
        raise DatasetError(f"{root / labels}: was not packed as it is")
