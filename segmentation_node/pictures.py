"""Encoded pictures (PNG, JPEG, WebP, TIFF, BMP, PNM) to arrays: pixel-exact, whole, or refused.

The header is read before anything is decoded: a small file that declares a huge picture takes no
memory, and one that was cut off is refused, where OpenCV fills the rest of a JPEG with grey. Pixels
come as they lie in the file: labels, camera_info and depth are aligned to them, so no orientation,
of EXIF or of TIFF, turns anything, and no alpha darkens it. A file of several pictures is refused.

Bytes that were changed within the file are found where it has checksums: in PNG and in deflated
TIFF. JPEG, and TIFF that is packed otherwise or not at all, have none: there such damage can pass,
also a JPEG that was cut and given an end marker.
"""

import re
import struct
import zlib
from typing import Callable, Dict, Iterator, NamedTuple, Tuple

import cv2
import numpy as np

from segmentation_node import tiff
from segmentation_node.errors import ImageError

LARGEST_IMAGE_PIXELS = 1 << 26
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".pnm")

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PALETTE, _GREY = 3, 0
# Before the TIFF that EXIF is, in JPEG, PNG and WebP.
_EXIF = re.compile(rb"(?:Exif\0\0|eXIf|EXIF.{4})(?=II\*\0|MM\0\*)", re.DOTALL)
# A marker that is neither a stuffed byte nor a restart ends a scan's data.
_END_OF_SCAN = re.compile(b"\xff+[^\x00\xd0-\xd7\xff]")
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
# One space or comment at a time: a repeated \s+ takes for ever on spaces without a number.
_PNM = re.compile(rb"P[1-6](?:\s|#[^\r\n]*[\r\n])+(\d+)(?:\s|#[^\r\n]*[\r\n])+(\d+)\s")
_PNM_HIGHEST = re.compile(rb"(?:\s|#[^\r\n]*[\r\n])*(\d+)\s")


class Header(NamedTuple):
    """What a picture's bytes say before they are decoded.

    ``is_lossy``: the compression may have changed values, and with them ids. (WebP in its extended
    form is taken to be.) ``not_as_stored`` says why decoding gives other values than lie in the
    file; empty where it gives those.
    """

    format: str
    height: int
    width: int
    is_whole: bool
    pictures: int = 1
    is_lossy: bool = False
    not_as_stored: str = ""


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

    Of a palette PNG, and of a BMP whose palette is grey, the indices, uint8 (H, W). Raises
    ImageError, one line, also where values would come otherwise than they lie in the file: bilevel
    PNM and TIFF, TIFF whose 0 is white, PNM in text of less than 8 bits.
    """
    header = _check(data)
    if header.not_as_stored:
        raise ImageError(
            "a %s %s, which is not read as it lies in the file; save it as a PNG of 8 or 16 bits"
            % (header.format, header.not_as_stored)
        )
    if header.format == "PNG" and (data[25] == _PALETTE or (data[25] == _GREY and data[24] < 8)):
        return _packed_values(data)
    if header.format == "BMP":
        data = _bmp_of_values(data)
    pixels = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise ImageError("a %s of %s; expected 8 or 16 bits" % (header.format, pixels.dtype))
    return pixels


def palette_of(data: bytes) -> np.ndarray:
    """A palette PNG's colours by index, uint8 (N, 3) RGB; of any other picture none, (0, 3).

    ``data`` is a picture that decodes: it is read up to its palette and no further.
    """
    found = b""
    if data.startswith(_PNG_START) and data[25] == _PALETTE:
        found = next((content for kind, content in _png_chunks(data) if kind == b"PLTE"), b"")
    return np.frombuffer(found[: len(found) // 3 * 3], np.uint8).reshape(-1, 3)


def orientation_of(data: bytes) -> int:
    """How a picture's EXIF, or TIFF, has it shown: 2 to 8, as EXIF numbers it; 1: as it lies."""
    exif = None if data[:4] in tiff.STARTS else _EXIF.search(data)
    at = exif.end() if exif else 0
    return tiff.orientation(data[at:]) if data[at : at + 4] in tiff.STARTS else 1


def _check(data: bytes) -> Header:
    header = read_header(data)
    if not header.is_whole:
        raise _broken(data, header)
    if not 1 <= header.height * header.width <= LARGEST_IMAGE_PIXELS:
        raise ImageError(
            "a %s of %dx%d; expected 1 to %d pixels"
            % (header.format, header.width, header.height, LARGEST_IMAGE_PIXELS)
        )
    if header.pictures > 1:
        raise ImageError(
            "a %s that holds %d pictures; expected one" % (header.format, header.pictures)
        )
    # Not before the size is known to be sane: it says how much is decompressed at most.
    if header.format == "TIFF" and not tiff.is_sound(data):
        raise _broken(data, header)
    return header


def _broken(data: bytes, header: Header) -> ImageError:
    return ImageError("%d bytes of a %s that is cut off or broken" % (len(data), header.format))


def _imdecode(data: bytes, flags: int) -> np.ndarray:
    if data[:4] in tiff.STARTS:
        data = tiff.as_it_lies(data)
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError(
            "%d bytes of a %s cannot be decoded" % (len(data), read_header(data).format)
        )
    return pixels


def _packed_values(data: bytes) -> np.ndarray:
    """The indices of a palette PNG, or the values of a grey one of up to 8 bits: uint8 (H, W).

    Read as a grey one with the same values, which OpenCV does not translate.
    """
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
    kinds, pictures = [], 1
    for kind, content in _png_chunks(data):
        kinds.append(kind)
        if kind == b"acTL":
            (pictures,) = struct.unpack_from(">I", content)
    return Header("PNG", height, width, kinds[0] == b"IHDR" and b"IDAT" in kinds, pictures)


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
            return Header("JPEG", height, width, scans > 0, is_lossy=True)
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
                return Header("JPEG", height, width, False, is_lossy=True)
            at = end.end() - 2


def _webp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 4)
    kind, pictures = data[12:16], 1
    if kind == b"VP8X":
        pictures = _webp_frames(data) or 1
        width = 1 + int.from_bytes(data[24:27], "little")
        height = 1 + int.from_bytes(data[27:30], "little")
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    whole = data[8:12] == b"WEBP" and len(data) >= 8 + size
    return Header("WebP", height, width, whole, pictures, is_lossy=kind != b"VP8L")


def _webp_frames(data: bytes) -> int:
    """How many frames of an animation there are; 0 without one."""
    at, frames = 12, 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<4sI", data, at)
        frames += kind == b"ANMF"
        at += 8 + size + size % 2
    return frames


def _tiff(data: bytes) -> Header:
    return Header("TIFF", *tiff.facts(data, LARGEST_IMAGE_PIXELS))


# Bits, compression and how many colours the palette has.
_BMP_COLORS = "<HI12xI"


def _bmp(data: bytes) -> Header:
    (pixels_at,) = struct.unpack_from("<I", data, 10)
    width, height = struct.unpack_from("<ii", data, 18)
    bits, compression = struct.unpack_from(_BMP_COLORS, data, 28)[:2]
    width, height = abs(width), abs(height)
    row_bytes = (width * bits + 31) // 32 * 4
    is_plain = compression in (0, 3)
    whole = not is_plain or len(data) >= pixels_at + row_bytes * height
    return Header("BMP", height, width, whole and len(data) > pixels_at)


def _bmp_of_values(data: bytes) -> bytes:
    """With each index as its grey, where the palette is grey."""
    (header_bytes,) = struct.unpack_from("<I", data, 14)
    bits, _, used = struct.unpack_from(_BMP_COLORS, data, 28)
    if bits > 8:
        return data
    start = 14 + header_bytes
    end = start + 4 * min(used or 1 << bits, 1 << bits)
    blue, green, red = (data[start + channel : end : 4] for channel in range(3))
    if not blue == green == red:
        return data
    return data[:start] + bytes(index // 4 for index in range(end - start)) + data[end:]


def _pnm(data: bytes) -> Header:
    match = _PNM.match(data[:4096])
    if match is None:
        raise ValueError("no width and height")
    width, height = int(match.group(1)), int(match.group(2))
    kind = data[1:2]
    least = {b"4": height * ((width + 7) // 8), b"5": height * width, b"6": 3 * height * width}
    other = "whose 0 is white" if kind in b"14" else ""
    if kind in b"23":
        highest = _PNM_HIGHEST.match(data[:4096], match.end())
        if highest is None:
            raise ValueError("no highest value")
        if int(highest.group(1)) < 255:  # OpenCV spreads them over 0 to 255
            other = "of values in text up to %d" % int(highest.group(1))
    whole = len(data) - match.end() >= least.get(kind, 1)
    return Header("PNM", height, width, whole, not_as_stored=other)


_READERS: Dict[bytes, Callable[[bytes], Header]] = {
    _PNG_START: _png,
    b"\xff\xd8": _jpeg,
    b"RIFF": _webp,
    b"BM": _bmp,
}
_READERS.update((start, _tiff) for start in tiff.STARTS)
_READERS.update((b"P%d" % kind, _pnm) for kind in range(1, 7))
_NAMES = {_PNG_START: "PNG", b"\xff\xd8": "JPEG", b"RIFF": "WebP", b"BM": "BMP"}
_NAMES.update((start, "TIFF") for start in tiff.STARTS)
_NAMES.update((b"P%d" % kind, "PNM") for kind in range(1, 7))
