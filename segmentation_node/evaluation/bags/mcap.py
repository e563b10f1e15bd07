"""A whole MCAP file: chunk by chunk, as its index says, in the order of the messages' times."""

import heapq
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Dict, Iterator, List, Set, Tuple

from rosbags.interfaces import QosDurability
from rosbags.rosbag2.errors import ReaderError
from rosbags.rosbag2.storage_mcap import McapReader

from segmentation_node.errors import BagError
from segmentation_node.evaluation.bags.records import Placed, RawMessage, Topic, type_name
from segmentation_node.evaluation.bags.unpacking import LARGEST_BLOCK_BYTES, unpack

MAGIC = b"\x89MCAP0\r\n"
FOOTER, SCHEMA, CHANNEL, MESSAGE, CHUNK, STATISTICS = 0x02, 0x03, 0x04, 0x05, 0x06, 0x0B
PREFIX = struct.Struct("<BQ")
MESSAGE_HEADER = struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<QQQI")
# Chunks that overlap in time are held at once.
LARGEST_OVERLAP_BYTES = 2 * LARGEST_BLOCK_BYTES


class IndexedMcap:
    """An MCAP file of profile ros2 with an index.

    Anything else, and any damage, raises one of many errors: see ``storage``.
    """

    def __init__(self, path: Path) -> None:
        self._index = _Index(path)
        self._index.open()
        self._overlap_bytes = 0
        self.topics = [_topic(connection) for connection in self._index.connections]

    def close(self) -> None:
        """Close the file."""
        self._index.close()

    def messages(self, names: Set[str]) -> Iterator[Placed]:
        """The messages of the topics ``names``, by time; a chunk is a part of the file."""
        channels = {
            item.id: (topic.name, topic.type)
            for item, topic in zip(self._index.connections, self.topics)
            if topic.name in names
        }
        chunks = [
            self._chunk(info, channels)
            for info in self._index.chunks
            if not channels.keys().isdisjoint(info.message_index_offsets)
        ]
        for _, place, message in heapq.merge(*chunks, key=lambda item: item[0]):
            if message is not None:
                yield place, message

    def _chunk(
        self, info: Any, channels: Dict[int, Tuple[str, str]]
    ) -> Iterator[Tuple[int, int, Any]]:
        place = info.chunk_start_offset
        yield info.message_start_time, place, None  # it is unpacked when its time has come
        assert self._index.bio is not None
        raw = _chunk_at(self._index.bio, place, info.chunk_length)
        self._overlap_bytes += len(raw)
        if self._overlap_bytes > LARGEST_OVERLAP_BYTES:
            raise BagError("chunks of one time hold more than %d bytes" % LARGEST_OVERLAP_BYTES)
        found = []
        for opcode, body in records_of(raw):
            if opcode == MESSAGE:
                channel_id, _, log_ns, _ = MESSAGE_HEADER.unpack_from(body)
                if channel_id in channels:
                    data = body[MESSAGE_HEADER.size :]
                    found.append((log_ns, place, RawMessage(*channels[channel_id], log_ns, data)))
        yield from sorted(found, key=lambda item: item[0])
        self._overlap_bytes -= len(raw)


class _Index(McapReader):
    """The index at a file's end; a file whose messages it does not find is not read by it."""

    def meta_scan(self) -> None:
        raise ReaderError("it has no index")

    def open(self) -> None:
        super().open()
        lacks = self._lacks()
        if lacks:
            self.close()
            raise ReaderError("its index does not say %s" % lacks)

    def _lacks(self) -> str:
        """What of all messages it does not tell; empty where it tells all. MCAP demands none."""
        offsets = [chunk.message_index_offsets for chunk in self.chunks]
        stated = self.metadata.message_count
        if not all(offsets) or (not offsets and stated):
            return "where messages are"
        if not self.schemas and self.connections:
            return "which types topics have"
        channels = {connection.id for connection in self.connections}
        if any(offset.keys() - channels for offset in offsets):
            return "which topics messages are on"
        if sum(connection.msgcount for connection in self.connections) != stated:
            return "how many messages a topic has"
        return ""


def chunk_data(body: bytes, whole: bool = True) -> bytes:
    """The records in a chunk; of one that is not ``whole`` those that are there.

    Raises BagError where it is not what it says.
    """
    _, _, size, crc = _CHUNK.unpack_from(body)
    compression, after = text_at(body, _CHUNK.size)
    (length,) = struct.unpack_from("<Q", body, after)
    raw = unpack(body[after + 8 : after + 8 + length], compression.decode())
    if whole and len(raw) != size:
        raise BagError("a chunk of %d bytes, expected %d" % (len(raw), size))
    if whole and crc and zlib.crc32(raw) != crc:
        raise BagError("a chunk's checksum differs")
    return raw


def records_of(raw: bytes) -> Iterator[Tuple[int, bytes]]:
    """Opcode and body of the whole records in a chunk."""
    position = 0
    while position + PREFIX.size <= len(raw):
        opcode, length = PREFIX.unpack_from(raw, position)
        start, position = position + PREFIX.size, position + PREFIX.size + length
        if position <= len(raw):
            yield opcode, raw[start:position]


def text_at(body: bytes, position: int) -> Tuple[bytes, int]:
    """A string of a record, and where it ends."""
    (length,) = struct.unpack_from("<I", body, position)
    after = position + 4 + length
    return body[position + 4 : after], after


def _chunk_at(stream: BinaryIO, start: int, length: int) -> bytes:
    size = stream.seek(0, 2)
    if not PREFIX.size < length <= size - start:
        raise BagError("a chunk at byte %d that is not in the file" % start)
    stream.seek(start)
    opcode, _ = PREFIX.unpack(stream.read(PREFIX.size))
    if opcode != CHUNK:
        raise BagError("no chunk at byte %d" % start)
    return chunk_data(stream.read(length - PREFIX.size))


def _topic(connection: Any) -> Topic:
    profiles: List[Any] = connection.ext.offered_qos_profiles
    latched = any(item.durability == QosDurability.TRANSIENT_LOCAL for item in profiles)
    type_ = type_name(connection.msgtype, connection.ext.serialization_format)
    return Topic(connection.topic, type_, connection.msgcount, latched)
