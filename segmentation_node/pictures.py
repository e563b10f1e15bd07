"""Encoded pictures (PNG, JPEG, WebP, TIFF, BMP, PNM) to arrays: pixel-exact, whole, or refused.

The header is read before anything is decoded: a small file that declares a huge picture takes no
memory, and one that was cut off is refused, where OpenCV fills the rest of a JPEG with grey. Pixels
come as they lie in the file: labels, camera_info and depth are aligned to them, so an EXIF
orientation turns nothing.
"""

import re
import struct
import zlib
from typing import Callable, Dict, Iterator, NamedTuple, Tuple

import cv2
import numpy as np

from segmentation_node.errors import ImageError

LARGEST_IMAGE_PIXELS = 1 << 26
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pnm")
LOSSY = ("JPEG", "WebP")
"""Formats that may change values, and with them ids. (Lossless WebP is not told apart.)"""

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PALETTE, _GREY = 3, 0
# A marker that is neither a stuffed byte nor a restart ends a scan's data.
_END_OF_SCAN = re.compile(b"\xff+[^\x00\xd0-\xd7\xff]")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_PNM = re.compile(rb"P[1-6](?:\s+|#[^\r\n]*[\r\n])+(\d+)(?:\s+|#[^\r\n]*[\r\n])+(\d+)\s")


class Header(NamedTuple):
    """What a picture's bytes say before they are decoded."""

    format: str
    height: int
    width: int
    is_whole: bool


def read_header(data: bytes) -> Header:
    """Format and size of an encoded picture, and whether all of it is there.

    Raises ImageError where the bytes are no picture of a known format.
    """
    for start, reader in _READERS.items():
        if data.startswith(start):
            try:
                return reader(data)
            except (struct.error, LookupError, ValueError, OverflowError):
                return Header(_NAMES[start], 0, 0, False)
    raise ImageError(
        "%d bytes that are no picture; expected PNG, JPEG, WebP, TIFF, BMP or PNM" % len(data)
    )


def decode_rgb(data: bytes) -> np.ndarray:
    """An encoded picture as uint8 RGB (H, W, 3). Raises ImageError, one line."""
    _check(data)
    bgr = _imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def decode_as_stored(data: bytes) -> np.ndarray:
    """An encoded picture's values: uint8 or uint16, (H, W) or (H, W, channels) with blue first.

    Of a palette PNG its indices, uint8 (H, W). Raises ImageError, one line.
    """
    header = _check(data)
    if header.format == "PNG" and data[25] == _PALETTE:
        return _palette_indices(data)
    pixels = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError("a %s of %s; expected 8 or 16 bits" % (header.format, pixels.dtype))
    return pixels


def _check(data: bytes) -> Header:
    header = read_header(data)
    if not header.is_whole:
        raise ImageError("%d bytes of a %s that is cut off or broken" % (len(data), header.format))
    if not 1 <= header.height * header.width <= LARGEST_IMAGE_PIXELS:
        raise ImageError(
            "a %s of %dx%d; expected 1 to %d pixels"
            % (header.format, header.width, header.height, LARGEST_IMAGE_PIXELS)
        )
    return header


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError(
            "%d bytes of a %s cannot be decoded" % (len(data), read_header(data).format)
        )
    return pixels


def _palette_indices(data: bytes) -> np.ndarray:
    """A palette PNG read as the grey one with the same values, which OpenCV does not translate."""
    bits = data[24]
    ihdr = data[16:25] + bytes([_GREY]) + data[26:29]
    chunks = [_PNG_START, _png_chunk(b"IHDR", ihdr)]
    for kind, content in _png_chunks(data):
        if kind in (b"IDAT", b"IEND"):
            chunks.append(_png_chunk(kind, content))
    grey = _imdecode(b"".join(chunks), cv2.IMREAD_GRAYSCALE)
    # Grey of fewer bits comes spread over 0 to 255.
    return grey // (255 // ((1 << bits) - 1))


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body) & 0xFFFFFFFF)


def _png_chunks(data: bytes) -> Iterator[Tuple[bytes, bytes]]:
    """Kind and content of each chunk until the last. Raises ValueError on one that is broken."""
    at = len(_PNG_START)
    kind = b""
    while kind != b"IEND":
        (length,) = struct.unpack_from(">I", data, at)
        (stated,) = struct.unpack_from(">I", data, at + 8 + length)
        kind = data[at + 4 : at + 8]
        if zlib.crc32(data[at + 4 : at + 8 + length]) & 0xFFFFFFFF != stated:
            raise ValueError("a PNG chunk's checksum differs")
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    kinds = [kind for kind, _ in _png_chunks(data)]
    return Header("PNG", height, width, kinds[0] == b"IHDR" and b"IDAT" in kinds)


def _jpeg(data: bytes) -> Header:
    height = width = 0
    at, scans = 2, 0
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:  # fill bytes
            at += 1
        if data[at] != 0xFF:
            raise ValueError("no marker where one must be")
        marker = data[at + 1]
        if marker == _END_OF_IMAGE:
            return Header("JPEG", height, width, scans > 0)
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _START_OF_FRAME:
            if height:
                raise ValueError("two sizes")
            height, width = struct.unpack_from(">HH", data, at + 5)
        at += 2 + length
        if marker == _START_OF_SCAN:
            scans += 1
            end = _END_OF_SCAN.search(data, at)
            if end is None:
                return Header("JPEG", height, width, False)
            at = end.end() - 2


def _webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    whole = data[8:12] == b"WEBP" and len(data) >= 8 + size
    return Header("WebP", height, width, whole)


def _tiff(data: bytes) -> Header:
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, at)
    tags: Dict[int, Tuple[int, ...]] = {}
    for index in range(entries):
        tag, values = _tiff_tag(data, order, at + 2 + 12 * index)
        if tag in tags:
            raise ValueError("a tag that is there twice")
        tags[tag] = values
    (width,), (height,) = tags[256], tags[257]
    (tile_width,), (tile_height,) = tags.get(322, (1,)), tags.get(323, (1,))
    if tile_width * tile_height > LARGEST_IMAGE_PIXELS:
        raise ValueError("a tile larger than any picture")
    if max(tags.get(258, (1,))) > 16:
        raise ImageError("a TIFF of %d bits a value; expected 8 or 16" % max(tags[258]))
    offsets = tags.get(273, tags.get(324, ()))
    sizes = tags.get(279, tags.get(325, ()))
    ends = [offset + size for offset, size in zip(offsets, sizes)]
    whole = bool(ends) and len(offsets) == len(sizes) and max(ends) <= len(data)
    return Header("TIFF", height, width, whole)


_TIFF_TYPES = {1: "B", 3: "H", 4: "I"}
# Width, height, bits a value, where and how long the strips are, tiles' sides, and where they are.
_TIFF_TAGS = (256, 257, 258, 273, 279, 322, 323, 324, 325)


def _tiff_tag(data: bytes, order: str, at: int) -> Tuple[int, Tuple[int, ...]]:
    tag, type_, count = struct.unpack_from(order + "HHI", data, at)
    if tag not in _TIFF_TAGS:
        return tag, ()
    code = _TIFF_TYPES[type_]
    if count > len(data):
        raise ValueError("a tag has more values than the file bytes")
    layout = order + "%d%s" % (count, code)
    if struct.calcsize(layout) > 4:
        (at,) = struct.unpack_from(order + "I", data, at + 8)
        return tag, struct.unpack_from(layout, data, at)
    return tag, struct.unpack_from(layout, data, at + 8)


def _bmp(data: bytes) -> Header:
    (pixels_at,) = struct.unpack_from("<I", data, 10)
    width, height = struct.unpack_from("<ii", data, 18)
    bits, compression = struct.unpack_from("<HI", data, 28)
    width, height = abs(width), abs(height)
    row_bytes = (width * bits + 31) // 32 * 4
    is_plain = compression in (0, 3)
    whole = not is_plain or len(data) >= pixels_at + row_bytes * height
    return Header("BMP", height, width, whole and len(data) > pixels_at)


def _pnm(data: bytes) -> Header:
    match = _PNM.match(data[:4096])
    if match is None:
        raise ValueError("no width and height")
    width, height = int(match.group(1)), int(match.group(2))
    least = {b"4": height * ((width + 7) // 8), b"5": height * width, b"6": 3 * height * width}
    return Header("PNM", height, width, len(data) - match.end() >= least.get(data[1:2], 1))


_READERS: Dict[bytes, Callable[[bytes], Header]] = {
    _PNG_START: _png,
    b"\xff\xd8": _jpeg,
    b"RIFF": _webp,
    b"II*\0": _tiff,
    b"MM\0*": _tiff,
    b"BM": _bmp,
}
_READERS.update((b"P%d" % kind, _pnm) for kind in range(1, 7))
_NAMES = {_PNG_START: "PNG", b"\xff\xd8": "JPEG", b"RIFF": "WebP", b"BM": "BMP"}
_NAMES.update({b"II*\0": "TIFF", b"MM\0*": "TIFF"})
_NAMES.update((b"P%d" % kind, "PNM") for kind in range(1, 7))
