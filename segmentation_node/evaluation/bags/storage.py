"""The files of a bag: whole ones through rosbags, damaged ones as far as they can be read."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple, Type

from rosbags.interfaces import ConnectionExtRosbag2, QosDurability
from rosbags.rosbag2.storage_mcap import McapReader
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Reader

from segmentation_node.errors import BagError, reason
from segmentation_node.evaluation.bags.records import RawMessage, Report, Topic
from segmentation_node.evaluation.bags.recover_mcap import DamagedMcap
from segmentation_node.evaluation.bags.recover_sqlite import DamagedSqlite


class StorageFile:
    """One storage file of a bag, open for reading.

    A file that cannot be opened as a whole is reported, then read as far as it goes. One that
    breaks off while it is read is reported too, and the rest of it recovered.
    What the storage libraries raise on damage is any exception there is: apsw.Error, struct.error,
    KeyError, OverflowError and more.
    """

    def __init__(self, path: Path, report: Report) -> None:
        self.path = path
        self._report = report
        self._reader: Optional[Any] = None
        self._recovered: Optional[Any] = None
        reader_class, self._damaged_class = _PLUGINS[path.suffix]
        reader = reader_class(path)
        try:
            reader.open()
            self._reader = reader
            self.topics = [_topic(connection) for connection in reader.connections]
        except FileNotFoundError as error:
            raise BagError("%s: no such file" % path) from error
        except PermissionError as error:
            raise BagError("%s: not readable by this user" % path) from error
        except Exception as error:
            self._report_damage(error)
            self.topics = self._recover().topics()

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def messages(self, names: Set[str]) -> Iterator[RawMessage]:
        """The messages of the topics ``names`` in the order of their recording."""
        passed: Dict[str, int] = Counter()
        if self._reader is not None:
            wanted = [item for item in self._reader.connections if item.topic in names]
            source = self._reader.messages(wanted) if wanted else iter(())
            while True:
                try:
                    connection, recorded_ns, data = next(source)
                except StopIteration:
                    self._compare(passed, names)
                    return
                except Exception as error:
                    self._report_damage(error)
                    break
                passed[connection.topic] += 1
                yield RawMessage(connection.topic, connection.msgtype, recorded_ns, data)
        # What came before the damage was given already.
        for message in self._recover().messages(names):
            if passed[message.topic] > 0:
                passed[message.topic] -= 1
            else:
                yield message

    def _compare(self, passed: Dict[str, int], names: Set[str]) -> None:
        """Say where the file's own index counts more than came."""
        for topic in self.topics:
            if topic.name in names and passed.get(topic.name, 0) < topic.count:
                self._report(
                    "%s: its index counts %d messages on %s, %d can be read"
                    % (self.path, topic.count, topic.name, passed.get(topic.name, 0))
                )

    def _report_damage(self, error: Exception) -> None:
        found = reason(error)
        self._report("%s: damaged or cut off (%s); read to its end" % (self.path, found))

    def _recover(self) -> Any:
        if self._recovered is None:
            self._recovered = self._damaged_class(self.path, self._report)
        return self._recovered


_PLUGINS: Dict[str, Tuple[Type[Any], Type[Any]]] = {
    ".mcap": (McapReader, DamagedMcap),
    ".db3": (Sqlite3Reader, DamagedSqlite),
}
STORAGE_SUFFIXES = tuple(_PLUGINS)


def merged_topics(files: List[StorageFile]) -> List[Topic]:
    """The topics of all files, counts added up, by name."""
    found: Dict[str, Topic] = {}
    for topic in (topic for file in files for topic in file.topics):
        before = found.get(topic.name)
        if before is None:
            found[topic.name] = topic
            continue
        if before.type != topic.type:
            raise BagError(
                "topic %s has two types, %s and %s" % (topic.name, before.type, topic.type)
            )
        found[topic.name] = replace(
            before, count=before.count + topic.count, latched=before.latched or topic.latched
        )
    return sorted(found.values())


def _topic(connection: Any) -> Topic:
    if not isinstance(connection.topic, str) or not isinstance(connection.msgtype, str):
        raise ValueError("a topic without a name or type")
    profiles = []
    if isinstance(connection.ext, ConnectionExtRosbag2):
        profiles = connection.ext.offered_qos_profiles
    latched = any(item.durability == QosDurability.TRANSIENT_LOCAL for item in profiles)
    return Topic(connection.topic, connection.msgtype, connection.msgcount, latched)
