"""A sqlite3 file that is cut off or corrupt: its message rows are read page by page.

The tree over a table's pages is not used: its upper pages may lie in the part that is missing.
Layout of pages, cells and records as in SQLite's description of its file format.
"""

import sqlite3
import struct
from pathlib import Path
from typing import BinaryIO, Dict, Iterator, List, NamedTuple, Set, Tuple

from segmentation_node.errors import reason
from segmentation_node.evaluation.bags.records import Placed, RawMessage, Report, Topic
from segmentation_node.evaluation.bags.sqlite import NamedTopic, connect, read_topics

TABLE_LEAF = 0x0D
# Columns of a message row; id is the row id, stored as NULL.
COLUMNS = ("id", "topic_id", "timestamp", "data")
_FIRST_BLOB = 12
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}


class Row(NamedTuple):
    """Where a message is: enough to order rows without holding their data."""

    recorded_ns: int
    row_id: int
    topic_id: int
    cell: int  # byte in the file at which the payload starts
    payload: int  # its bytes, overflow pages included
    data: int  # where in the payload the message starts


class DamagedSqlite:
    """Finds the rows of ``messages`` whose pages are there.

    A row whose later pages are missing is reported and left out. Messages come in the order of
    their recording.
    """

    is_whole = False

    def __init__(self, path: Path, name: str, report: Report) -> None:
        self._path = path
        self._name = name
        self._report = report
        self._topics = self._read_topics()
        with open(path, "rb") as stream:
            self._pages = _Pages(stream)
            self._rows = sorted(row for row in self._pages.rows() if row.topic_id in self._topics)

    def topics(self) -> List[Topic]:
        """Topics and how many message rows of theirs are found."""
        counts = dict.fromkeys(self._topics, 0)
        for row in self._rows:
            counts[row.topic_id] += 1
        return [Topic(item.name, item.type, counts[id_], item.latched)
                for id_, item in self._topics.items()]  # fmt: skip

    def messages(self, names: Set[str]) -> Iterator[Placed]:
        """The messages of the topics ``names`` that can be read."""
        with open(self._path, "rb") as stream:
            pages = _Pages(stream)
            for row in self._rows:
                topic = self._topics[row.topic_id]
                if topic.name not in names:
                    continue
                payload = pages.payload(row.cell, row.payload)
                if len(payload) < row.payload:
                    self._report(
                        "%s, message %d on %s: some of its pages are missing"
                        % (self._name, row.row_id, topic.name)
                    )
                    continue
                yield 0, RawMessage(topic.name, topic.type, row.recorded_ns, payload[row.data :])

    def _read_topics(self) -> Dict[int, NamedTopic]:
        try:
            connection = connect(self._path)
            try:
                # Without it SQLite refuses a file that is shorter than its header says.
                connection.execute("PRAGMA writable_schema=ON")
                return read_topics(connection)
            finally:
                connection.close()
        except (sqlite3.Error, ValueError) as error:  # ValueError: names that are no text
            self._report("%s: its topics are not readable (%s)" % (self._name, reason(error)))
            return {}


class _Pages:
    """The pages of a database file, read as they lie."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        header = stream.read(100).ljust(100, b"\0")
        (size,) = struct.unpack_from(">H", header, 16)
        self.size = 65536 if size == 1 else max(size, 512)
        self._usable = self.size - header[20]
        self._file_bytes = stream.seek(0, 2)
        # A page belongs to one message; a file may say otherwise, and of itself.
        self._taken: Set[int] = set()

    def rows(self) -> Iterator[Row]:
        """The message rows that start in a page of this file."""
        number = 1
        while True:
            page = self._page(number)
            if len(page) < self.size:
                return
            start = 100 if number == 1 else 0
            if page[start] == TABLE_LEAF:
                yield from self._leaf(page, start, (number - 1) * self.size)
            number += 1

    def payload(self, cell: int, length: int) -> bytes:
        """A cell's payload; shorter than ``length`` where an overflow page is missing or taken."""
        if length > self._file_bytes:
            return b""
        self._stream.seek(cell)
        local = self._local_bytes(length)
        found = self._stream.read(local)
        if local == length or len(found) < local:
            return found
        parts, missing = [found], length - local
        following = self._stream.read(4)
        while missing > 0:
            (number,) = struct.unpack(">I", following.rjust(4, b"\0"))
            page = self._page(number) if number and number not in self._taken else b""
            self._taken.add(number)
            part = page[4 : min(4 + missing, self._usable)]
            if len(part) < min(missing, self._usable - 4):
                break
            parts.append(part)
            missing -= len(part)
            following = page[:4]
        return b"".join(parts)

    def _page(self, number: int) -> bytes:
        self._stream.seek((number - 1) * self.size)
        return self._stream.read(self.size)

    def _leaf(self, page: bytes, start: int, offset: int) -> Iterator[Row]:
        (cells,) = struct.unpack_from(">H", page, start + 3)
        for index in range(min(cells, (self.size - start - 8) // 2)):
            (at,) = struct.unpack_from(">H", page, start + 8 + 2 * index)
            try:
                yield self._row(page, at, offset)
            except (ValueError, IndexError):
                continue  # a row of another table, or no row at all

    def _row(self, page: bytes, at: int, offset: int) -> Row:
        length, at = _varint(page, at)
        row_id, at = _varint(page, at)
        header_bytes, after = _varint(page, at)
        types, values = [], at + header_bytes
        while after < values:
            serial, after = _varint(page, after)
            types.append(serial)
        is_message = (
            len(types) == len(COLUMNS)
            and types[0] == 0
            and types[3] >= _FIRST_BLOB
            and types[3] % 2 == 0
        )
        if not is_message:
            raise ValueError("another table's row")
        topic_id, values = _integer(page, values, types[1])
        recorded_ns, values = _integer(page, values, types[2])
        if values - at + (types[3] - _FIRST_BLOB) // 2 != length:
            raise ValueError("not a row")
        return Row(recorded_ns, row_id, topic_id, offset + at, length, values - at)

    def _local_bytes(self, length: int) -> int:
        """How much of a payload lies in its leaf page."""
        if length <= self._usable - 35:
            return length
        least = (self._usable - 12) * 32 // 255 - 23
        local = least + (length - least) % (self._usable - 4)
        return local if local <= self._usable - 35 else least


def _varint(page: bytes, at: int) -> Tuple[int, int]:
    """A value of up to nine bytes, seven bits each (eight in the ninth), and where it ends."""
    value = 0
    for index in range(8):
        byte = page[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    return value << 8 | page[at + 8], at + 9


def _integer(page: bytes, at: int, serial: int) -> Tuple[int, int]:
    if serial in (8, 9):
        return serial - 8, at
    if serial not in _INTEGER_BYTES:
        raise ValueError("not an integer")
    after = at + _INTEGER_BYTES[serial]
    return int.from_bytes(page[at:after], "big", signed=True), after
