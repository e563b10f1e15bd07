"""Open a bag, whole or damaged, and give its messages as recorded or its frames decoded."""

import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple, Union

from segmentation_node.errors import BagError, ImageError
from segmentation_node.evaluation.bags.files import find_files, opened
from segmentation_node.evaluation.bags.frames import (
    BoxLabels,
    DriveCounter,
    camera_frames,
    recorded_frames,
)
from segmentation_node.evaluation.bags.messages import LABEL_INFO, deserialize, label_set_of
from segmentation_node.evaluation.bags.records import (
    DATASET,
    SINGLE,
    SINGLE_IMAGES,
    SPLIT,
    RawMessage,
    Report,
    Topic,
)
from segmentation_node.evaluation.bags.storage import StorageFile, merged_topics
from segmentation_node.evaluation.bags.topics import (
    TRUTH_TOPIC,
    Topics,
    base_name,
    choose_topics,
    foreign,
    listed,
)
from segmentation_node.evaluation.bags.unpacking import ZSTD_START, unpack
from segmentation_node.evaluation.frame import Frame, Problem, ScoredFrame
from segmentation_node.labels import LabelSet


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
        metadata, paths = find_files(Path(path), self._report, self._note)
        self.custom_data = metadata.custom_data
        try:
            for file in paths:
                readable = opened(file, self._folder, self._report)
                self._files.append(StorageFile(readable, str(file), self._report))
            self.topics: List[Topic] = merged_topics(self._files)
            if foreign(self.topics):
                raise BagError("%s: %s" % (path, foreign(self.topics)))
            self._compare_counts(metadata.counts)
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
                    try:
                        return label_set_of(message.data)
                    except ImageError as error:
                        self._report("message on %s: %s" % (name, error))
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

        def note(line: str) -> None:
            self._note("%s: %s" % (self.path, line))

        return choose_topics(self.topics, note, image, truth, prediction)

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
        topics = Topics(topics.image, topics.truth, true_boxes=topics.true_boxes)
        return self._checked(camera_frames(*self._parts(topics)))

    def recorded_frames(self, topics: Topics) -> Iterator[Union[ScoredFrame, Problem]]:
        """The predictions that were recorded, with truth and image; see ``frames``."""
        if topics.image is not None and not topics.image.count:
            topics = topics._replace(image=None)  # it does not say which frames there were
        return self._checked(recorded_frames(*self._parts(topics)))

    def _parts(self, topics: Topics) -> Tuple[Any, Topics, BoxLabels, DriveCounter, Report]:
        """What frames are made of."""
        names = {
            "true_boxes": topics.true_boxes,
            # The node tells of both by one LabelInfo.
            "boxes": topics.prediction if topics.boxes is not None else None,
        }
        found = {
            part: self.label_set_of(topic) for part, topic in names.items() if topic is not None
        }
        labels = {part: labels for part, labels in found.items() if labels is not None}
        return self._read_all(topics), topics, labels, self._drive_counter(), self._report

    def _drive_counter(self) -> DriveCounter:
        is_noted = self.custom_data.get(SINGLE) == "true"
        return DriveCounter(is_noted or self._tells_of_single_images())

    def _tells_of_single_images(self) -> bool:
        """Whether the truth's LabelInfo does: a bag that is recorded again has no custom_data."""
        name = TRUTH_TOPIC + "/label_info"
        if name not in [topic.name for topic in self.topics if topic.type == LABEL_INFO]:
            return False
        for message in self._read({name}):
            try:
                return str(deserialize(message.data, LABEL_INFO).model).endswith(SINGLE_IMAGES)
            except ImageError:
                continue  # told where the label set is asked for
        return False

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
                # CDR does not start so: the recorder packed each message.
                if message.data[:4] != ZSTD_START:
                    yield message
                    continue
                try:
                    yield message._replace(data=unpack(message.data, "zstd"))
                except BagError as error:
                    self._report("message on %s: not unpacked: %s" % (message.topic, error))

    def _report(self, line: str) -> None:
        if self.strict:
            raise BagError(line)
        self._note(line)

    def _note(self, line: str) -> None:
        line = "\\n".join(line.splitlines())  # a folder may be called so
        if line not in self._known:
            self._known.add(line)
            self.damage.append(line)

    def _folder(self) -> Path:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="segmentation_bag_")
        return Path(self._temporary.name)

    def _compare_counts(self, counts: Dict[str, int]) -> None:
        """Say which messages the metadata knows and the files lack."""
        found = {topic.name: topic.count for topic in self.topics}
        for name, expected in counts.items():
            if found.get(name, 0) < expected:
                self._report(
                    "%s: metadata.yaml counts %d messages on %s, the files hold %d"
                    % (self.path, expected, name, found.get(name, 0))
                )


def open_bag(path: str, strict: bool = False) -> Bag:
    """Open a bag: its folder, or one of its files (.mcap, .db3). Use it under ``with``.

    Raises BagError where it is none. Under ``strict`` the first problem raises BagError too.
    """
    return Bag(path, strict)
