"""A sqlite3 file of rosbag2, schema 1 to 4, and the log that a recorder may leave beside it."""

import os
import shutil
import sqlite3
import struct
import sys
import tempfile
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Set
from urllib.parse import quote

from segmentation_node.errors import BagError, reason
from segmentation_node.evaluation.bags.records import Placed, RawMessage, Report, Topic, type_name

LOG_ENDINGS = ("-wal", "-journal")
_WAL_HEADER, _WAL_FRAME = 32, 24


class NamedTopic(NamedTuple):
    """A row of ``topics``."""

    name: str
    type: str
    latched: bool


class WholeSqlite:
    """A database that SQLite reads. Raises one of many errors on any damage: see ``storage``."""

    def __init__(self, path: Path) -> None:
        self._connection = connect(path)
        try:
            self._topics = read_topics(self._connection)
            found = self._connection.execute(
                "SELECT topic_id, count(*) FROM messages GROUP BY topic_id"
            )
            counts = dict(found.fetchall())
        except BaseException:
            self.close()
            raise
        self.topics = [Topic(item.name, item.type, counts.pop(id_, 0), item.latched)
                       for id_, item in self._topics.items()]  # fmt: skip
        if counts:
            self.close()
            raise ValueError("%d messages of no topic" % sum(counts.values()))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def messages(self, names: Set[str]) -> Iterator[Placed]:
        """The messages of the topics ``names``, by time."""
        ids = [id_ for id_, item in self._topics.items() if item.name in names]
        rows = self._connection.execute(
            "SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN (%s) "
            "ORDER BY timestamp, id" % ",".join("?" * len(ids)),
            ids,
        )
        for id_, recorded_ns, data in rows:
            if not isinstance(recorded_ns, int) or not isinstance(data, bytes):
                raise ValueError("a message without a time or data")
            yield 0, RawMessage(self._topics[id_].name, self._topics[id_].type, recorded_ns, data)


def connect(path: Path) -> sqlite3.Connection:
    """A connection to read a file as it lies: nothing is written to it or beside it."""
    uri = "file:%s?immutable=1" % quote(os.fsencode(path.absolute()))
    # Frames are read on a thread of their own.
    connection = sqlite3.connect(uri, uri=True, check_same_thread=False)
    if sys.version_info >= (3, 11):
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, max(path.stat().st_size, 1 << 16))
    return connection


def read_topics(connection: sqlite3.Connection) -> Dict[int, NamedTopic]:
    """The topics by id. Raises ValueError or sqlite3.Error where they, or messages, are none."""
    (tables,) = connection.execute(
        "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN "
        "('messages', 'topics') AND sql LIKE 'CREATE TABLE%' AND sql NOT LIKE '% AS (%'"
    ).fetchone()
    if tables != 2:
        raise ValueError("no tables of messages and topics as rosbag2 makes them")
    cursor = connection.execute("SELECT * FROM topics")
    columns = [column[0] for column in cursor.description]
    found = {}
    for row in (dict(zip(columns, values)) for values in cursor):
        if not all(isinstance(row.get(name), str) for name in ("name", "type")):
            raise ValueError("a topic without a name or type")
        qos = str(row.get("offered_qos_profiles"))
        latched = "transient_local" in qos or "durability: 1" in qos
        type_ = type_name(row["type"], str(row.get("serialization_format") or ""))
        found[row["id"]] = NamedTopic(row["name"], type_, latched)
    return found


def log_beside(path: Path) -> List[Path]:
    """The logs beside a database that hold what is not, or not yet, to be in it."""
    logs = [Path(str(path) + ending) for ending in LOG_ENDINGS]
    return [log for log in logs if log.is_file() and log.stat().st_size]


def with_log(path: Path, folder: Callable[[], Path], report: Report) -> Path:
    """A copy, in ``folder``, of a database with what the logs beside it hold; or the file itself.

    What of them cannot be used is reported. Raises BagError where there is no room for a copy.
    """
    logs = log_beside(path)
    if not logs:
        return path
    copy = Path(tempfile.mkdtemp(dir=folder()), "bag.db3")
    try:
        shutil.copyfile(path, copy)
        for log in logs:
            shutil.copyfile(log, str(copy) + str(log)[len(str(path)) :])
    except OSError as error:
        raise BagError("%s: not copied to %s (%s)" % (path, copy.parent, reason(error))) from error
    try:
        connection = sqlite3.connect(str(copy))
        # Reading is what takes a journal back.
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        _, used, _ = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        connection.close()
    except sqlite3.Error as error:
        report("%s: not readable (%s), what it holds is missing" % (logs[0], reason(error)))
        return path
    written = _frames_in(logs[0])
    if written > used:
        report(
            "%s: %d of its %d pages are not used: damaged, or of a transaction without an end"
            % (logs[0], written - max(used, 0), written)
        )
    return copy


def _frames_in(log: Path) -> int:
    """Pages that a write-ahead log holds, those of before its last restart aside."""
    if not str(log).endswith("-wal"):
        return 0
    with open(log, "rb") as stream:
        header = stream.read(_WAL_HEADER)
        if len(header) < _WAL_HEADER:
            return 0
        (page_bytes,) = struct.unpack_from(">I", header, 8)
        frames = 0
        while True:
            frame = stream.read(_WAL_FRAME)
            if len(frame) < _WAL_FRAME or frame[8:16] != header[16:24]:
                return frames
            frames += 1
            stream.seek(page_bytes, 1)
