"""An MCAP file without a usable end or index: read from its start as far as it goes."""

import struct
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from segmentation_node.errors import reason
from segmentation_node.evaluation.bags.mcap import (
    CHANNEL,
    CHUNK,
    FOOTER,
    MAGIC,
    MESSAGE,
    MESSAGE_HEADER,
    PREFIX,
    SCHEMA,
    STATISTICS,
    chunk_data,
    records_of,
    text_at,
)
from segmentation_node.evaluation.bags.records import Placed, RawMessage, Report, Topic, type_name
from segmentation_node.evaluation.bags.unpacking import LARGEST_BLOCK_BYTES

_FOOTER_BYTES = 20 + len(MAGIC)


class Channel(NamedTuple):
    """A topic's channel."""

    topic: str
    type: str
    latched: bool


class DamagedMcap:
    """Walks an MCAP file record by record.

    A chunk that cannot be unpacked is reported and left out; of the last one, cut off, all
    messages that are whole are kept. Messages come in the order of the file, within a chunk in
    the order of their log times. ``is_whole`` says after ``topics`` that nothing is missing.
    """

    def __init__(self, path: Path, name: str, report: Report) -> None:
        self.is_whole = False
        self._path = path
        self._name = name
        self._report = report
        self._schemas: Dict[int, str] = {}
        self._channels: Dict[int, Channel] = {}
        self._stated: Optional[int] = None
        self._has_end = False

    def topics(self) -> List[Topic]:
        """Topics and how many of their messages can be read. Reads the whole file."""
        problems: List[str] = []
        counts: Dict[int, int] = Counter(item[1] for item in self._walk(problems.append))
        unknown = sum(counts[id_] for id_ in counts.keys() - self._channels.keys())
        if unknown:
            problems.append("%s: %d messages whose topics are not readable" % (self._name, unknown))
            self._report(problems[-1])
        if self._stated is not None and self._stated > sum(counts.values()):
            found = (self._name, self._stated, sum(counts.values()))
            problems.append("%s: its index counts %d messages, %d can be read" % found)
            self._report(problems[-1])
        self.is_whole = self._has_end and not problems
        return [Topic(item.topic, item.type, counts[id_], item.latched)
                for id_, item in self._channels.items()]  # fmt: skip

    def messages(self, names: Set[str]) -> Iterator[Placed]:
        """The messages of the topics ``names`` that can be read; after ``topics``."""
        for place, channel_id, log_ns, data in self._walk(self._report):
            channel = self._channels.get(channel_id)
            if channel is not None and channel.topic in names:
                yield place, RawMessage(channel.topic, channel.type, log_ns, data)

    def _walk(self, report: Report) -> Iterator[Tuple[int, int, int, bytes]]:
        with open(self._path, "rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                report("%s: not an MCAP file: it does not start as one" % self._name)
                return
            for position, opcode, body, whole in _records(stream):
                if opcode == FOOTER:
                    self._has_end = body.endswith(MAGIC)
                    return
                try:
                    found = list(self._messages(opcode, body, whole))
                except Exception as error:  # whatever its fields lead to
                    report(
                        "%s, record at byte %d: not readable, its messages are lost (%s)"
                        % (self._name, position, reason(error))
                    )
                    continue
                # Stable: messages of one time stay in the order in which they were written.
                for message in sorted(found, key=lambda item: item[1]):
                    yield (position, *message)

    def _messages(self, opcode: int, body: bytes, whole: bool) -> Iterator[Tuple[int, int, bytes]]:
        if opcode == CHUNK:
            for record in records_of(chunk_data(body, whole)):
                yield from self._take(*record)
        elif whole:
            yield from self._take(opcode, body)

    def _take(self, opcode: int, body: bytes) -> Iterator[Tuple[int, int, bytes]]:
        if opcode == SCHEMA:
            (schema_id,) = struct.unpack_from("<H", body)
            self._schemas[schema_id] = text_at(body, 2)[0].decode()
        elif opcode == CHANNEL:
            channel_id, schema_id = struct.unpack_from("<HH", body)
            topic, after = text_at(body, 4)
            encoding, after = text_at(body, after)
            metadata, _ = text_at(body, after)
            latched = b"durability: transient_local" in metadata or b"durability: 1" in metadata
            type_ = type_name(self._schemas.get(schema_id, ""), encoding.decode())
            self._channels[channel_id] = Channel(topic.decode(), type_, latched)
        elif opcode == STATISTICS:
            (self._stated,) = struct.unpack_from("<Q", body)
        elif opcode == MESSAGE and len(body) >= MESSAGE_HEADER.size:
            channel_id, _, log_ns, _ = MESSAGE_HEADER.unpack_from(body)
            yield channel_id, log_ns, body[MESSAGE_HEADER.size :]


def _records(stream: BinaryIO) -> Iterator[Tuple[int, int, bytes, bool]]:
    """Position, opcode, body, and whether the body is whole, up to the footer.

    Behind the data lie the topics once more, and the footer's body ends with the file.
    """
    size = stream.seek(0, 2)
    position = stream.seek(len(MAGIC))
    while True:
        prefix = stream.read(PREFIX.size)
        if len(prefix) < PREFIX.size:
            return
        opcode, length = PREFIX.unpack(prefix)
        if opcode == 0:
            return
        if opcode == FOOTER:
            yield position, opcode, stream.read(_FOOTER_BYTES), True
            return
        after = position + PREFIX.size + length
        if opcode in (SCHEMA, CHANNEL, MESSAGE, CHUNK, STATISTICS):
            body = stream.read(min(length, size - position, LARGEST_BLOCK_BYTES))
            yield position, opcode, body, len(body) == length
        if after >= size:
            return
        position = stream.seek(after)
