"""zstd and lz4, which may come from anywhere: what is unpacked is bounded before it is there."""

import tempfile
from pathlib import Path
from typing import Any, Callable, Dict

from lz4.frame import LZ4FrameDecompressor
from rosbags.rosbag2.storage_mcap import zstd

from segmentation_node.errors import BagError, reason
from segmentation_node.evaluation.bags.records import Report

ZSTD_START = b"\x28\xb5\x2f\xfd"
PACKED_ENDINGS = (".zstd", ".zst")
# Ground truth that hardly changes shrinks to a thousandth; a bomb to a thirty-thousandth.
LARGEST_GROWTH = 1000
ALWAYS_ALLOWED_BYTES = 64 << 20
LARGEST_BLOCK_BYTES = 512 << 20
"""Of a message, or of a chunk of several: 64 million pixels of four 16-bit channels."""
_PART_BYTES = 1 << 20

_DECOMPRESSORS: Dict[str, Callable[[], Any]] = {
    "zstd": zstd.ZstdDecompressor,
    "lz4": LZ4FrameDecompressor,
}


def unpack(packed: bytes, compression: str) -> bytes:
    """A message or chunk; as much as is there where it is cut off.

    Raises BagError where it holds more than ``most_bytes``, or is no such data.
    """
    if not compression:
        return packed
    if compression not in _DECOMPRESSORS:
        raise BagError("compression %.40r is not known; expected zstd or lz4" % compression)
    most = min(LARGEST_BLOCK_BYTES, most_bytes(len(packed)))
    parts, room, rest = [], most, packed
    while rest:
        decompressor = _DECOMPRESSORS[compression]()
        try:
            parts.append(decompressor.decompress(rest, max_length=room + 1))
        except (zstd.ZstdError, RuntimeError, EOFError) as error:
            raise BagError("not %s (%s)" % (compression, reason(error))) from error
        room -= len(parts[-1])
        if room < 0:
            raise BagError("%d bytes unpack to more than %d" % (len(packed), most))
        if not decompressor.eof:
            break
        rest = decompressor.unused_data or b""
    return b"".join(parts)


def unpack_file(path: Path, folder: Path, report: Report) -> Path:
    """The file without its ending ``.zstd``, in ``folder``; what of it cannot be had is reported.

    Raises BagError where there is no room for it.
    """
    target = Path(tempfile.mkdtemp(dir=folder), path.stem)
    room = most_bytes(path.stat().st_size)
    try:
        with open(target, "wb") as out, zstd.open(path, "rb") as packed:
            while room >= 0:
                try:
                    part = packed.read(min(_PART_BYTES, room + 1))
                except (zstd.ZstdError, EOFError) as error:
                    report("%s: cut off or corrupt (%s)" % (path, reason(error)))
                    break
                if not part:
                    break
                room -= len(part)
                out.write(part)
    except OSError as error:
        raise BagError("%s: not unpacked in %s (%s)" % (path, folder, reason(error))) from error
    if room < 0:
        most = most_bytes(path.stat().st_size)
        report("%s: unpacks to more than %d bytes, %d times its own: read up to there"
               % (path, most, most // path.stat().st_size))  # fmt: skip
    return target


def most_bytes(packed: int) -> int:
    """How much as many packed bytes may hold."""
    return max(ALWAYS_ALLOWED_BYTES, LARGEST_GROWTH * packed)
