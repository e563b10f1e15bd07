"""Write a rosbag2 bag that Humble's tools and later ones take: MCAP or sqlite3 (schema 4)."""

import contextlib
import glob
import os
import re
import sqlite3
from pathlib import Path
from typing import Any, Dict, Iterable, Literal, Optional

from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.rosbag2.errors import WriterError
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer

from segmentation_node.errors import BagError, reason
from segmentation_node.evaluation.bags.messages import typestore
from segmentation_node.evaluation.bags.records import DATASET
from segmentation_node.files import Layout, new_folder

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
# Of metadata.yaml: Humble refuses version 9, in which the QoS is no text any more.
METADATA_VERSION: Literal[8] = 8
# As rmw writes a duration without end.
_FOREVER = QosTime(9223372036, 854775807)
_DEPTH = 10
_FAILURES = (OSError, WriterError, sqlite3.Error)
_NAME = re.compile(r"(/[A-Za-z_][A-Za-z0-9_]*)+$")


class _SqliteWriter(Sqlite3Writer):
    """rosbags pastes the path into a URI, which ends at the first ``#`` or ``?``."""

    def __init__(self, path: Path, compression: CompressionMode) -> None:
        self.path = path / (path.name + ".db3")
        self.conn = sqlite3.connect(self.path)
        self.conn.executescript(self.SQLITE_SCHEMA)
        self.cursor = self.conn.cursor()


class _Writer(Writer):
    STORAGE_PLUGINS = {**Writer.STORAGE_PLUGINS, StoragePlugin.SQLITE3: _SqliteWriter}


class BagWriter:
    """Writes one bag under ``with``; it is there whole in the end, or not at all.

    ``compression`` zstd compresses MCAP's chunks; ``replace`` allows for a bag of ours that is
    there, ``sources`` are what is read meanwhile. Raises BagError where the bag cannot be written,
    OutputError where something is in its place that is not to be replaced.
    """

    def __init__(
        self,
        path: str,
        storage: str = "mcap",
        compression: str = "none",
        replace: bool = False,
        sources: Iterable[str] = (),
    ) -> None:
        if compression == "zstd" and storage != "mcap":
            raise BagError("zstd compresses MCAP's chunks; %s has none: choose mcap" % storage)
        if not _is_text(os.path.basename(os.path.realpath(path))):
            raise BagError("%r: a bag's name is to be text (UTF-8): metadata.yaml holds it" % path)
        self.path = path
        self._folder = new_folder(path, _layout(path), sources, replace)
        self._stack = contextlib.ExitStack()
        self._storage, self._compression = storage, compression
        self._writer: Optional[Writer] = None
        self._connections: Dict[str, Any] = {}

    def __enter__(self) -> "BagWriter":
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(self._folder)
            try:
                self._writer = _Writer(
                    folder, version=METADATA_VERSION, storage_plugin=STORAGES[self._storage]
                )
                if self._compression == "zstd":
                    self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
                self._writer.open()
            except _FAILURES as error:
                raise BagError("%s cannot be written: %s" % (self.path, reason(error))) from error
            stack.push(self._end)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    @property
    def _opened(self) -> Writer:
        assert self._writer is not None, "the writer is used under with"
        return self._writer

    def note(self, key: str, value: str) -> None:
        """Keep a fact about the bag in metadata.yaml's custom_data."""
        self._opened.set_custom_data(key, value)

    def add_topic(self, name: str, type_: str, latched: bool = False) -> None:
        """Add a topic offered reliable, and transient local where it is latched."""
        if not _NAME.match(name):
            raise BagError("%r is no topic name; expected one like /camera/image_raw" % name)
        if name in self._connections:
            raise BagError("two topics would be called %s" % name)
        self._connections[name] = self._opened.add_connection(
            name, type_, typestore=typestore(), offered_qos_profiles=[_offered(latched)]
        )

    def write(self, topic: str, recorded_ns: int, data: bytes) -> None:
        """Write a serialised message."""
        try:
            self._opened.write(self._connections[topic], recorded_ns, data)
        except _FAILURES as error:
            raise BagError("%s cannot be written: %s" % (self.path, reason(error))) from error

    def _end(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self._opened.abort()
            return
        try:
            self._opened.close()
        except _FAILURES as error:
            raise BagError("%s cannot be written: %s" % (self.path, reason(error))) from error


def _is_text(name: str) -> bool:
    return name == name.encode("utf-8", "replace").decode("utf-8")


def _layout(path: str) -> Layout:
    name = glob.escape(os.path.basename(os.path.realpath(path)))
    files = ("metadata.yaml", name + ".mcap", name + ".db3")
    # Every bag of make-bag notes its data set: that tells that it is ours.
    return Layout("a bag of make-bag", files, "metadata.yaml", DATASET)


def _offered(latched: bool) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else _DEPTH,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_FOREVER,
        lifespan=_FOREVER,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_FOREVER,
        avoid_ros_namespace_conventions=False,
    )
