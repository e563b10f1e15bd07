"""What a TIFF says of itself, whether its strips are sound, and how to have it as it lies."""

import struct
import zlib
from typing import Dict, Iterator, NamedTuple, Tuple

from segmentation_node.errors import ImageError

STARTS = (b"II*\0", b"MM\0*")
_TYPES = {1: "B", 3: "H", 4: "I"}
_SHORT = 3
_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_BIT_ORDER, _STRIPS, _ORIENTATION, _SAMPLES = 266, 273, 274, 277
_STRIP_ROWS, _STRIP_SIZES = 278, 279
_PLANAR, _TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES, _ALPHA = 284, 322, 323, 324, 325, 338
_READ_TAGS = frozenset([_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _BIT_ORDER])
_READ_TAGS |= {_STRIPS, _SAMPLES, _STRIP_ROWS, _STRIP_SIZES, _PLANAR}
_READ_TAGS |= {_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES}
_ZERO_IS_WHITE, _ZERO_IS_BLACK, _YCBCR = 0, 1, 6
_ONE_BY_ONE = 2
"""Of ``_PLANAR``: the channels' planes one after the other."""
_DEFLATED = (8, 32946)
_LOSSY = (6, 7, 34712, 34892, 50001)
"""JPEG, old and new, JPEG 2000, a DNG's JPEG, WebP."""
_PART_BYTES, _PADDING_BYTES = 1 << 20, 1 << 10

_Tags = Dict[int, Tuple[int, ...]]


class Facts(NamedTuple):
    """Size in pixels, and what else ``pictures.Header`` has of these names."""

    height: int
    width: int
    is_whole: bool
    pictures: int
    is_lossy: bool
    not_as_stored: str


def facts(data: bytes, most_tile_pixels: int) -> Facts:
    """What a TIFF's first directory says, and how many pictures there are.

    Raises ImageError on values of more than 16 bits, and ValueError, LookupError or struct.error on
    what is no sound TIFF.
    """
    directories = list(_directories(data))
    tags = directories[0]
    (width,), (height,) = tags[_WIDTH], tags[_HEIGHT]
    (tile_width,), (tile_height,) = tags.get(_TILE_WIDTH, (1,)), tags.get(_TILE_HEIGHT, (1,))
    if tile_width * tile_height > most_tile_pixels:
        raise ValueError("a tile larger than any picture")
    bits = max(tags.get(_BITS, (1,)))
    if bits > 16:
        raise ImageError("a TIFF of %d bits a value; expected 8 or 16" % bits)
    offsets, sizes = _places(tags)
    ends = [offset + size for offset, size in zip(offsets, sizes)]
    whole = bool(ends) and len(offsets) == len(sizes) and max(ends) <= len(data)
    # Thumbnails and transparency masks that follow belong to the first picture.
    pictures = 1 + sum(not tags.get(_SUBFILE, (0,))[0] & 0b101 for tags in directories[1:])
    photometric = tags.get(_PHOTOMETRIC, (_ZERO_IS_BLACK,))[0]
    other = ""
    if photometric == _ZERO_IS_WHITE:
        other = "whose 0 is white"
    elif photometric == _ZERO_IS_BLACK and bits not in (8, 16):
        other = "of %d bits a value" % bits
    is_lossy = tags.get(_COMPRESSION, (0,))[0] in _LOSSY
    return Facts(height, width, whole, pictures, is_lossy, other)


def _directories(data: bytes) -> Iterator[_Tags]:
    """The tags of each picture of a TIFF. Raises ValueError on a tag that is there twice."""
    order = _order(data)
    (at,) = struct.unpack_from(order + "I", data, 4)
    room = len(data)
    while at:
        (entries,) = struct.unpack_from(order + "H", data, at)
        end = at + 2 + 12 * entries
        room -= end + 4 - at
        if room < 0:  # so a chain that leads back comes to an end
            raise ValueError("directories of more bytes than the file has")
        tags: _Tags = {}
        for place in range(at + 2, end, 12):
            tag, values = _tag(data, order, place)
            if tag in tags:
                raise ValueError("a tag that is there twice")
            tags[tag] = values
        yield tags
        (at,) = struct.unpack_from(order + "I", data, end)


def _order(data: bytes) -> str:
    return "<" if data[:2] == b"II" else ">"


def _tag(data: bytes, order: str, at: int) -> Tuple[int, Tuple[int, ...]]:
    tag, type_, count = struct.unpack_from(order + "HHI", data, at)
    if tag not in _READ_TAGS:
        return tag, ()
    code = _TYPES[type_]
    if not 1 <= count <= len(data):
        raise ValueError("a tag of no values, or of more than the file has bytes")
    layout = order + "%d%s" % (count, code)
    if struct.calcsize(layout) > 4:
        (at,) = struct.unpack_from(order + "I", data, at + 8)
        return tag, struct.unpack_from(layout, data, at)
    return tag, struct.unpack_from(layout, data, at + 8)


def _places(tags: _Tags) -> Tuple[Tuple[int, ...], Tuple[int, ...]]:
    """Where the strips, or tiles, are, and of how many bytes."""
    offsets = tags.get(_STRIPS, tags.get(_TILES, ()))
    return offsets, tags.get(_STRIP_SIZES, tags.get(_TILE_SIZES, ()))


def as_it_lies(data: bytes) -> bytes:
    """Without the orientation by which libtiff would turn it, or the alpha to multiply by."""
    order = _order(data)
    (first,) = struct.unpack_from(order + "I", data, 4)
    (entries,) = struct.unpack_from(order + "H", data, first)
    patched = bytearray(data)
    for at in range(first + 2, first + 2 + 12 * entries, 12):
        tag, _, count = struct.unpack_from(order + "HHI", data, at)
        if tag in (_ORIENTATION, _ALPHA) and count == 1:
            # Of the one, 1 is upright; of the other, that colours are multiplied already.
            struct.pack_into(order + "HHIHH", patched, at, tag, _SHORT, 1, 1, 0)
    return bytes(patched)


def orientation(data: bytes) -> int:
    """As EXIF numbers it, 1 to 8; 1 where the first directory does not say, or is broken."""
    order = _order(data)
    try:
        (first,) = struct.unpack_from(order + "I", data, 4)
        (entries,) = struct.unpack_from(order + "H", data, first)
        for at in range(first + 2, first + 2 + 12 * entries, 12):
            tag, type_ = struct.unpack_from(order + "HH", data, at)
            if tag == _ORIENTATION and type_ in _TYPES:
                (value,) = struct.unpack_from(order + _TYPES[type_], data, at + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def is_sound(data: bytes) -> bool:
    """Whether its strips, where they are deflated, decompress to all their rows.

    Of one that does not, OpenCV gives what there is: libtiff complains in the log only.
    """
    tags = next(_directories(data))

    def first(tag: int, default: int) -> int:
        return tags.get(tag, (default,))[0]

    samples = first(_SAMPLES, 1)
    # Of YCbCr, colours may have fewer samples; more than four OpenCV refuses.
    has_rows = first(_PHOTOMETRIC, 0) != _YCBCR and samples <= 4 and first(_BIT_ORDER, 1) == 1
    if first(_COMPRESSION, 0) not in _DEFLATED or not has_rows:
        return True
    height = tags[_HEIGHT][0]
    block_rows = first(_TILE_HEIGHT, first(_STRIP_ROWS, height))
    if first(_PLANAR, 1) == _ONE_BY_ONE:
        samples = 1
    row_bytes = (first(_TILE_WIDTH, tags[_WIDTH][0]) * samples * first(_BITS, 1) + 7) // 8
    strips = -(-height // max(1, block_rows))
    for index, (offset, size) in enumerate(zip(*_places(tags))):
        rows = block_rows
        if _TILE_HEIGHT not in tags:
            rows = min(block_rows, height - index % strips * block_rows)
        if not _decompresses(data[offset : offset + size], rows * row_bytes):
            return False
    return True


def _decompresses(deflated: bytes, size: int) -> bool:
    """Whether bytes decompress to their end, and to at least this many; in little memory.

    What decompresses to far more than is asked for is not followed to its end.
    """
    stream = zlib.decompressobj()
    most = 2 * size + _PADDING_BYTES
    part_bytes = min(most, _PART_BYTES)
    found = 0
    try:
        part = stream.decompress(deflated, part_bytes)
        while part and found <= most:
            found += len(part)
            part = stream.decompress(stream.unconsumed_tail, part_bytes)
    except zlib.error:
        return False
    return found > most or (stream.eof and found >= size)
