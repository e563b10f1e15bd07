"""A model that can be computed by hand: a pixel's class is the nearest of CamVid's colours.

``data/tiny`` holds it as an ONNX graph and as weights of a 1x1 convolution, made by
``make_tiny_model.py``. Here is what it must give, computed from distances instead.
"""

import ctypes
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from segmentation_node.labels import CAMVID_11
from segmentation_node.model_card import read_card, sha256_of

DATA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "data")
FOLDER = os.path.join(DATA, "tiny")
SIZE = (6, 8)
SOFTNESS = 4096.0  # a squared colour distance of this much costs a factor e of probability
COLORS = CAMVID_11.palette()[:11].astype(int)
LARGEST_SCORE = 9 * 255.0**2  # of 2 c.x - |c|^2, term by term
VOID = 11  # in CamVid's label images


def card():
    """The tiny model's card."""
    return read_card(FOLDER)


def card_with(path, kind="onnx"):
    """The card with another file as its only artifact, its hash right."""
    artifact = [item for item in card().artifacts if item.kind == kind][0]
    changed = replace(artifact, file=path.name, sha256=sha256_of(str(path)))
    return replace(card(), artifacts=[changed], folder=str(path.parent))


def classify(image_hwc):
    """Nearest colour of every pixel: uint8 (H, W)."""
    return _distances(image_hwc).argmin(axis=-1).astype(np.uint8)


def excess(class_map_hw, image_hwc):
    """How much further the classes' colours are than the nearest: squared distance, int (H, W)."""
    distances = _distances(image_hwc)
    chosen = np.take_along_axis(distances, class_map_hw[..., None].astype(int), axis=-1)
    return chosen[..., 0] - distances.min(axis=-1)


def confidence(image_hwc):
    """Softmax probability of the nearest colour, 0-255: float64 (H, W)."""
    distances = _distances(image_hwc)
    scores = np.exp((distances.min(axis=-1, keepdims=True) - distances) / SOFTNESS)
    return 255.0 / scores.sum(axis=-1)


def paint(class_map_hw):
    """The image that the model segments into this class map: uint8 RGB (H, W, 3)."""
    return COLORS.astype(np.uint8)[class_map_hw]


def random_image(seed, size=SIZE):
    """Noise: uint8 RGB (H, W, 3)."""
    return np.random.RandomState(seed).randint(0, 256, size + (3,)).astype(np.uint8)


def write(path, image):
    """Write an RGB image or ids as PNG."""
    path = Path(str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image if image.ndim == 2 else image[..., ::-1])


def write_camvid(root, split, samples):
    """Write {file name: (image RGB, label ids)} in SegNet's layout under the folder ``root``."""
    for name, (image_hwc, ids_hw) in samples.items():
        write(os.path.join(str(root), split, name), image_hwc)
        write(os.path.join(str(root), split + "annot", name), ids_hw)


def assert_one_line(error_info, *fragments):
    """The caught error's message is one line that holds every fragment."""
    message = str(error_info.value)
    assert message and "\n" not in message
    for fragment in fragments:
        assert str(fragment) in message, "%r is not in: %s" % (fragment, message)


def heap_bytes():
    """Memory that malloc has given out to this thread; native libraries' too."""
    libc = ctypes.CDLL(None)
    newer = hasattr(libc, "mallinfo2")  # the older one counts in 32 bits

    class MallocInfo(ctypes.Structure):
        names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
        _fields_ = [(name, ctypes.c_size_t if newer else ctypes.c_int) for name in names.split()]

    read = libc.mallinfo2 if newer else libc.mallinfo
    read.restype = MallocInfo
    found = read()
    return found.uordblks + found.hblkhd


def _distances(image_hwc):
    """Squared distance to every colour: int (H, W, 11)."""
    return ((image_hwc[..., None, :].astype(int) - COLORS) ** 2).sum(axis=-1)
