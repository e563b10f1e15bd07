"""The files of a bag: whole ones as they are meant to be read, others as far as they go."""

from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple, Type

from segmentation_node.errors import BagError, reason
from segmentation_node.evaluation.bags.mcap import IndexedMcap
from segmentation_node.evaluation.bags.records import BETWEEN_TYPES, RawMessage, Report, Topic
from segmentation_node.evaluation.bags.recover_mcap import DamagedMcap
from segmentation_node.evaluation.bags.recover_sqlite import DamagedSqlite
from segmentation_node.evaluation.bags.sqlite import WholeSqlite


class StorageFile:
    """One storage file of a bag, open for reading; messages call it ``name``.

    A file that cannot be opened as a whole is read as far as it goes, and reported unless all of
    it is there. One that breaks off while it is read is reported too, and the rest recovered.
    What is raised on damage is any exception there is: sqlite3.Error, struct.error, KeyError,
    OverflowError and more.
    """

    def __init__(self, path: Path, name: str, report: Report) -> None:
        self.name = name
        self._path = path
        self._report = report
        self._reader: Optional[Any] = None
        self._recovered: Optional[Any] = None
        reader_class, self._damaged_class = _PLUGINS[path.suffix.lower()]
        try:
            with open(path, "rb"):
                pass
        except FileNotFoundError as error:
            raise BagError("%s: no such file" % name) from error
        except OSError as error:
            raise BagError("%s: not readable by this user" % name) from error
        try:
            self._reader = reader_class(path)
            self.topics: List[Topic] = self._reader.topics
        except Exception as error:
            self.topics = self._recover().topics()
            if not self._recover().is_whole:
                self._report_damage(error)

    def close(self) -> None:
        """Close the file."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def messages(self, names: Set[str]) -> Iterator[RawMessage]:
        """The messages of the topics ``names`` in the order of their recording."""
        passed: Dict[Tuple[int, str], int] = Counter()
        if self._reader is not None:
            source = self._reader.messages(names)
            while True:
                try:
                    place, message = next(source)
                except StopIteration:
                    self._compare(passed, names)
                    return
                except Exception as error:
                    self._report_damage(error)
                    break
                passed[place, message.topic] += 1
                yield message
            self._recover().topics()
        # What came before the damage was given already: of each part of the file its first ones,
        # since one reader goes by time and the other by place.
        for place, message in self._recover().messages(names):
            if passed[place, message.topic] > 0:
                passed[place, message.topic] -= 1
            else:
                yield message

    def _compare(self, passed: Dict[Tuple[int, str], int], names: Set[str]) -> None:
        """Say where the file's own index counts more than came."""
        counted: Dict[str, int] = Counter()
        for topic in self.topics:
            counted[topic.name] += topic.count
        found: Dict[str, int] = Counter()
        for (_, name), count in passed.items():
            found[name] += count
        for name in sorted(names):
            if found[name] < counted[name]:
                self._report(
                    "%s: its index counts %d messages on %s, %d can be read"
                    % (self.name, counted[name], name, found[name])
                )

    def _report_damage(self, error: Exception) -> None:
        # It may be a copy of the file, which nobody has heard of.
        found = reason(error).replace(str(self._path), self.name)
        self._report("%s: damaged or cut off (%s); read to its end" % (self.name, found))

    def _recover(self) -> Any:
        if self._recovered is None:
            self._recovered = self._damaged_class(self._path, self.name, self._report)
        return self._recovered


_PLUGINS: Dict[str, Tuple[Type[Any], Type[Any]]] = {
    ".mcap": (IndexedMcap, DamagedMcap),
    ".db3": (WholeSqlite, DamagedSqlite),
}
STORAGE_SUFFIXES = tuple(_PLUGINS)


def merged_topics(files: List[StorageFile]) -> List[Topic]:
    """The topics of all files, counts added up and types joined, by name."""
    found: Dict[str, Topic] = {}
    for topic in (topic for file in files for topic in file.topics):
        before = found.get(topic.name)
        if before is None:
            found[topic.name] = topic
            continue
        types = dict.fromkeys([*before.type.split(BETWEEN_TYPES), topic.type])
        found[topic.name] = Topic(
            topic.name,
            BETWEEN_TYPES.join(types),
            before.count + topic.count,
            before.latched or topic.latched,
        )
    return sorted(found.values())
