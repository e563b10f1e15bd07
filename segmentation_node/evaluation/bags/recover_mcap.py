"""An MCAP file without a usable end or index: read from its start as far as it goes."""

import struct
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Set, Tuple

from lz4.frame import LZ4FrameDecompressor
from rosbags.rosbag2.storage_mcap import decompress, zstd

from segmentation_node.errors import reason
from segmentation_node.evaluation.bags.records import RawMessage, Report, Topic

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, DATA_END = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0F
_PREFIX = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<QQQI")

Record = Tuple[int, bytes]


class Channel(NamedTuple):
    """A topic's channel."""

    topic: str
    type: str
    latched: bool


class DamagedMcap:
    """Walks an MCAP file record by record.

    A chunk that cannot be decompressed is reported and left out; of the last one, cut off, all
    messages that are whole are kept. Messages come in the order of the file, within a chunk in
    the order of their log times.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self._path = path
        self._report = report
        self._schemas: Dict[int, str] = {}
        self._channels: Dict[int, Channel] = {}

    def topics(self) -> List[Topic]:
        """Topics and how many of their messages can be read. Reads the whole file."""
        counts: Dict[int, int] = Counter(item[0] for item in self._walk(lambda _: None))
        return [Topic(item.topic, item.type, counts[id_], item.latched)
                for id_, item in self._channels.items()]  # fmt: skip

    def messages(self, names: Set[str]) -> Iterator[RawMessage]:
        """The messages of the topics ``names`` that can be read."""
        for channel_id, log_ns, data in self._walk(self._report):
            channel = self._channels[channel_id]
            if channel.topic in names:
                yield RawMessage(channel.topic, channel.type, log_ns, data)

    def _walk(self, report: Report) -> Iterator[Tuple[int, int, bytes]]:
        with open(self._path, "rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                report("%s: not an MCAP file: it does not start as one" % self._path)
                return
            for position, opcode, body, whole in _records(stream):
                try:
                    found = list(self._messages(opcode, body, whole))
                except Exception as error:  # each compressor has its own
                    report(
                        "%s, record at byte %d: not readable, its messages are lost (%s)"
                        % (self._path, position, reason(error))
                    )
                    continue
                # Stable: messages of one time stay in the order in which they were written.
                yield from sorted(found, key=lambda item: item[1])

    def _messages(self, opcode: int, body: bytes, whole: bool) -> Iterator[Tuple[int, int, bytes]]:
        if opcode == CHUNK:
            for record in _chunk_records(body, whole):
                yield from self._take(*record)
        elif whole:
            yield from self._take(opcode, body)

    def _take(self, opcode: int, body: bytes) -> Iterator[Tuple[int, int, bytes]]:
        if opcode == SCHEMA:
            (schema_id,) = struct.unpack_from("<H", body)
            self._schemas[schema_id] = _string(body, 2)[0].decode()
        elif opcode == CHANNEL:
            channel_id, schema_id = struct.unpack_from("<HH", body)
            topic, after = _string(body, 4)
            _, after = _string(body, after)
            metadata, _ = _string(body, after)
            latched = b"durability: transient_local" in metadata or b"durability: 1" in metadata
            type_ = self._schemas.get(schema_id, "")
            self._channels[channel_id] = Channel(topic.decode(), type_, latched)
        elif opcode == MESSAGE and len(body) >= _MESSAGE.size:
            channel_id, _, log_ns, _ = _MESSAGE.unpack_from(body)
            if channel_id in self._channels:
                yield channel_id, log_ns, body[_MESSAGE.size :]


def _records(stream: BinaryIO) -> Iterator[Tuple[int, int, bytes, bool]]:
    """Position, opcode, body, and whether the body is whole, up to the data's end."""
    size = stream.seek(0, 2)
    position = stream.seek(len(MAGIC))
    while True:
        prefix = stream.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            return
        opcode, length = _PREFIX.unpack(prefix)
        if opcode in (0, FOOTER, DATA_END):
            return
        after = position + _PREFIX.size + length
        if opcode in (SCHEMA, CHANNEL, MESSAGE, CHUNK):
            body = stream.read(min(length, size - position))
            yield position, opcode, body, len(body) == length
        if after >= size:
            return
        position = stream.seek(after)


def _chunk_records(body: bytes, whole: bool) -> Iterator[Record]:
    _, _, size, crc = _CHUNK.unpack_from(body)
    compression, after = _string(body, _CHUNK.size)
    (length,) = struct.unpack_from("<Q", body, after)
    data = body[after + 8 : after + 8 + length]
    name = compression.decode()
    raw = decompress(data, name, size, crc) if whole else _beginning(data, name)
    position = 0
    while position + _PREFIX.size <= len(raw):
        opcode, length = _PREFIX.unpack_from(raw, position)
        start, position = position + _PREFIX.size, position + _PREFIX.size + length
        if position <= len(raw):
            yield opcode, raw[start:position]


def _beginning(data: bytes, compression: str) -> bytes:
    """What a chunk that is cut off still holds."""
    if compression == "zstd":
        return zstd.ZstdDecompressor().decompress(data)
    if compression == "lz4":
        return bytes(LZ4FrameDecompressor().decompress(data))
    return data


def _string(body: bytes, position: int) -> Tuple[bytes, int]:
    (length,) = struct.unpack_from("<I", body, position)
    after = position + 4 + length
    return body[position + 4 : after], after
