"""Open a bag, whole or damaged, and give its messages as recorded or its frames decoded."""

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Union

from rosbags.rosbag2.storage_mcap import zstd

from segmentation_node.errors import BagError, ContentError, reason, shown
from segmentation_node.evaluation.bags.frames import (
    DriveCounter,
    camera_frames,
    recorded_frames,
)
from segmentation_node.evaluation.bags.messages import LABEL_INFO, label_set_of
from segmentation_node.evaluation.bags.records import (
    DATASET,
    SINGLE,
    SPLIT,
    RawMessage,
    Topic,
)
from segmentation_node.evaluation.bags.storage import (
    STORAGE_SUFFIXES,
    StorageFile,
    merged_topics,
)
from segmentation_node.evaluation.bags.topics import Topics, base_name, choose_topics, listed
from segmentation_node.evaluation.frame import Frame, Problem, ScoredFrame
from segmentation_node.labels import LabelSet
from segmentation_node.yaml_and_json import read_yaml

NEWEST_METADATA = 9
METADATA_TYPES = {
    "relative_file_paths": list,
    "topics_with_message_count": list,
    "custom_data": dict,
    "compression_mode": str,
}


class Bag:
    """A rosbag2 bag, open for reading under ``with``.

    ``topics`` lists what it holds. ``damage`` grows, a line each, with everything that cannot be
    read of the bag; a frame that cannot be used is a ``Problem`` among the frames.
    """

    def __init__(self, path: str, strict: bool = False) -> None:
        self.path = path
        self.strict = strict
        self.damage: List[str] = []
        self._known: Set[str] = set()
        self._temporary: Optional[tempfile.TemporaryDirectory] = None
        self._files: List[StorageFile] = []
        metadata, paths = self._metadata_and_paths(Path(path))
        self._mode = str(metadata.get("compression_mode") or "").lower()
        self.custom_data: Dict[str, str] = dict(metadata.get("custom_data") or {})
        try:
            for file in self._unpacked(paths):
                self._files.append(StorageFile(file, self._report))
            self.topics: List[Topic] = merged_topics(self._files)
            self._compare_counts(metadata)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Bag":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()
        self._files = []
        if self._temporary is not None:
            self._temporary.cleanup()

    def label_set_of(self, topic: Topic) -> Optional[LabelSet]:
        """The label set published beside a topic of class maps; None where there is none.

        For ``/ground_truth`` that is ``/ground_truth/label_info``; for the node's
        ``~/class_map`` it is ``~/label_info``.
        """
        base = base_name(topic.name)
        beside = (base + "/label_info", base.rsplit("/", 1)[0] + "/label_info")
        names = [item.name for item in self.topics if item.type == LABEL_INFO]
        for name in beside:
            if name in names:
                for message in self._read({name}):
                    return label_set_of(message.data)
        return None

    @property
    def origin(self) -> Dict[str, str]:
        """The ``dataset`` and the ``split`` that the bag was made of, where it says so."""
        keys = {"dataset": DATASET, "split": SPLIT}
        return {
            name: self.custom_data[key] for name, key in keys.items() if key in self.custom_data
        }

    def listing(self) -> str:
        """Its topics on one line, with type and count."""
        return listed(self.topics)

    def choose_topics(
        self,
        image: Optional[str] = None,
        truth: Optional[str] = None,
        prediction: Optional[str] = None,
    ) -> Topics:
        """See ``bags.topics.choose_topics``."""
        return choose_topics(self.topics, image, truth, prediction)

    def messages(self, topics: Sequence[str] = ()) -> Iterator[RawMessage]:
        """Messages as recorded, of all topics or of those named, in the order of recording.

        Raises BagError that lists the topics where a named one is missing, and under ``strict``
        at the first problem.
        """
        known = {topic.name for topic in self.topics}
        missing = sorted(set(topics) - known)
        if missing:
            raise BagError("%s: no topic %s; it has %s" % (self.path, missing[0], self.listing()))
        yield from self._read(set(topics) or known)

    def frames(self, topics: Optional[Topics] = None) -> Iterator[Union[Frame, Problem]]:
        """Images with their truth, paired by header stamp, in the order of the images.

        Without ``topics`` they are chosen (see ``choose_topics``). Memory is bounded: a frame
        that waits for its truth is given without it once too many wait (``bags.frames.Matcher``).
        Raises BagError where no image topic is chosen, and under ``strict`` at the first problem.
        """
        topics = topics or self.choose_topics(prediction="")
        if topics.image is None:
            raise BagError("%s: no image topic; it has %s" % (self.path, self.listing()))
        topics = Topics(topics.image, topics.truth)
        return self._checked(camera_frames(self._read_all(topics), topics, self.drive_counter()))

    def recorded_frames(self, topics: Topics) -> Iterator[Union[ScoredFrame, Problem]]:
        """The predictions that were recorded, with truth and image; see ``frames``."""
        messages = self._read_all(topics)
        return self._checked(recorded_frames(messages, topics, self.drive_counter(), self._report))

    def drive_counter(self) -> DriveCounter:
        """What numbers the bag's frames from the first one on."""
        return DriveCounter(self.custom_data.get(SINGLE) == "true")

    def _checked(self, frames: Iterator[Any]) -> Iterator[Any]:
        for frame in frames:
            if self.strict and isinstance(frame, Problem):
                raise BagError(str(frame))
            yield frame

    def _read_all(self, topics: Topics) -> Iterator[RawMessage]:
        return self._read({topic.name for topic in topics if topic is not None})

    def _read(self, names: Set[str]) -> Iterator[RawMessage]:
        for file in self._files:
            for message in file.messages(names):
                if self._mode != "message":
                    yield message
                    continue
                try:
                    data = zstd.decompress(message.data)
                except zstd.ZstdError as error:
                    self._report(
                        "message on %s: not decompressed (%s)" % (message.topic, reason(error))
                    )
                else:
                    yield message._replace(data=data)

    def _report(self, line: str) -> None:
        if self.strict:
            raise BagError(line)
        if line not in self._known:
            self._known.add(line)
            self.damage.append(line)

    def _compare_counts(self, metadata: Dict[str, Any]) -> None:
        """Say which messages the metadata knows and the files lack."""
        found = {topic.name: topic.count for topic in self.topics}
        for name, expected in metadata.get("counts", {}).items():
            if found.get(name, 0) < expected:
                self._report(
                    "%s: metadata.yaml counts %d messages on %s, the files hold %d"
                    % (self.path, expected, name, found.get(name, 0))
                )

    def _metadata_and_paths(self, path: Path) -> Any:
        if path.is_file():
            if path.suffix not in STORAGE_SUFFIXES:
                hint = "; rosbags-convert makes one of a ROS 1 bag" if path.suffix == ".bag" else ""
                raise BagError(
                    "%s: not a rosbag2 bag; expected a folder with metadata.yaml, or a .mcap or "
                    ".db3 file%s" % (path, hint)
                )
            return {}, [path]
        if not path.is_dir():
            raise BagError("%s: no such bag" % path)
        metadata = self._read_metadata(path / "metadata.yaml")
        found = [path / Path(str(name)).name for name in metadata.get("relative_file_paths") or ()]
        for missing in (file for file in found if not file.is_file()):
            self._report("%s: no such file, but metadata.yaml lists it" % missing)
        found = [file for file in found if file.is_file()] or sorted(
            (file for file in path.iterdir() if file.suffix in STORAGE_SUFFIXES), key=_natural
        )
        if not found:
            raise BagError("%s: not a bag; no *.mcap or *.db3 file in it" % path)
        return metadata, found

    def _read_metadata(self, path: Path) -> Dict[str, Any]:
        """The content of metadata.yaml with ``counts`` by topic; empty where it cannot be used."""
        if not path.exists():
            # A recorder that was killed leaves none.
            self._report("%s: no such file; the bag is read without it" % path)
            return {}
        try:
            content = read_yaml(str(path))["rosbag2_bagfile_information"]
            if not isinstance(content, dict):
                raise TypeError("no mapping")
            for key, kind in METADATA_TYPES.items():
                if not isinstance(content.get(key) or kind(), kind):
                    raise TypeError("%s is %s" % (key, shown(content[key])))
            content["counts"] = {
                item["topic_metadata"]["name"]: int(item["message_count"])
                for item in content.get("topics_with_message_count") or ()
            }
        except (ContentError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            found = error.reason if isinstance(error, ContentError) else reason(error)
            self._report("%s: not readable (%s); the bag is read without it" % (path, found))
            return {}
        version = content.get("version")
        if isinstance(version, int) and version > NEWEST_METADATA:
            raise BagError("%s: version %d; expected at most %d" % (path, version, NEWEST_METADATA))
        return content

    def _unpacked(self, paths: List[Path]) -> Iterator[Path]:
        """The storage files; those compressed as a whole are unpacked first."""
        for path in paths:
            if path.suffix != ".zstd":
                yield path
                continue
            if self._temporary is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="segmentation_bag_")
            target = Path(self._temporary.name, path.stem)
            try:
                with zstd.open(path, "rb") as packed, open(target, "wb") as out:
                    shutil.copyfileobj(packed, out)
            except (zstd.ZstdError, EOFError) as error:
                self._report("%s: cut off or corrupt (%s)" % (path, reason(error)))
            yield target


def open_bag(path: str, strict: bool = False) -> Bag:
    """Open a bag: its folder, or one of its files (.mcap, .db3). Use it under ``with``.

    Raises BagError where it is none. Under ``strict`` the first problem raises BagError too.
    """
    return Bag(path, strict)


def _natural(path: Path) -> List[Any]:
    """Sorts drive_10 behind drive_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
