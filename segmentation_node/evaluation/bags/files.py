"""Which files a bag consists of: those that its metadata.yaml lists, or those that are there."""

import re
from pathlib import Path
from typing import Any, Callable, Dict, List, NamedTuple, Set, Tuple

from segmentation_node.errors import BagError, ContentError, reason, shown
from segmentation_node.evaluation.bags.records import Report
from segmentation_node.evaluation.bags.sqlite import LOG_ENDINGS, with_log
from segmentation_node.evaluation.bags.storage import STORAGE_SUFFIXES
from segmentation_node.evaluation.bags.unpacking import PACKED_ENDINGS, unpack_file
from segmentation_node.yaml_and_json import read_yaml

NEWEST_METADATA = 9
METADATA = "metadata.yaml"
METADATA_TYPES = {
    "relative_file_paths": list,
    "topics_with_message_count": list,
    "custom_data": dict,
}
ROS1 = ".bag"
_BESIDE = LOG_ENDINGS + ("-shm",)


class Metadata(NamedTuple):
    """What is used of metadata.yaml; ``counts`` are of messages by topic."""

    files: Tuple[str, ...] = ()
    counts: Dict[str, int] = {}
    custom_data: Dict[str, str] = {}


def find_files(path: Path, report: Report, note: Report) -> Tuple[Metadata, List[Path]]:
    """The storage files of a bag, a folder or one file, in order, perhaps packed.

    ``report`` takes a line for every storage file that is missing or left out, ``note`` one for
    whatever else is in the folder. Raises BagError where there is none.
    """
    if path.is_file():
        if not is_storage(path.name):
            raise BagError(
                "%s: not a rosbag2 bag; expected a folder with metadata.yaml, or a .mcap or .db3 "
                "file%s" % (path, _ros1_hint([path]))
            )
        return Metadata(), [path]
    if not path.is_dir():
        raise BagError("%s: no such bag" % path)
    metadata = _read_metadata(path / METADATA, report)
    there = sorted((item for item in path.iterdir() if item.name[0] != "."), key=_natural)
    files = [item for item in there if is_storage(item.name) and item.is_file()]
    chosen = _listed(path, metadata, files, report) or _by_content(files, report)
    others = [item for item in there if item not in files and not _belongs(item, files)]
    if not chosen:
        holds = "; it holds " + _few(others) if others else ""
        raise BagError(
            "%s: not a bag; no .mcap or .db3 file in it%s%s" % (path, holds, _ros1_hint(others))
        )
    if others:
        note("%s: no files of the bag, left out: %s" % (path, _few(others)))
    return metadata, chosen


def is_storage(name: str) -> bool:
    """Whether a file of this name holds messages, as it is or packed."""
    return unpacked_name(name).lower().endswith(STORAGE_SUFFIXES)


def unpacked_name(name: str) -> str:
    """A storage file's name without ``.zstd``."""
    for ending in PACKED_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def opened(path: Path, folder: Callable[[], Path], report: Report) -> Path:
    """A storage file as it can be read: unpacked, or with its log, in ``folder`` if need be."""
    if unpacked_name(path.name) != path.name:
        return unpack_file(path, folder(), report)
    return with_log(path, folder, report)


def _listed(path: Path, metadata: Metadata, files: List[Path], report: Report) -> List[Path]:
    """The files that the metadata lists; one may have been packed or unpacked since."""
    by_name = {item.name: item for item in files}
    by_content = {unpacked_name(item.name): item for item in reversed(files)}
    chosen = []
    for name in metadata.files:
        found = by_name.get(name) or by_content.get(unpacked_name(name))
        if found is None:
            report("%s: no such file, but metadata.yaml lists it" % (path / name))
        elif found not in chosen:
            chosen.append(found)
    for item in files if chosen else ():
        if item not in chosen:
            report("%s: left out: metadata.yaml does not list it" % item)
    return chosen


def _by_content(files: List[Path], report: Report) -> List[Path]:
    """All files; of one that is there packed too, which a killed recorder leaves, the plain."""
    names = {item.name for item in files}
    chosen: List[Path] = []
    contents: Set[str] = set()
    for item in files:
        content = unpacked_name(item.name)
        if content in contents or (content != item.name and content in names):
            report("%s: left out: %s is read, of which it is a copy" % (item, content))
            continue
        contents.add(content)
        chosen.append(item)
    return chosen


def _belongs(item: Path, files: List[Path]) -> bool:
    """Whether it is metadata.yaml, or what SQLite keeps beside a file."""
    beside = {file.name + ending for file in files for ending in _BESIDE}
    return item.name == METADATA or item.name in beside


def _ros1_hint(paths: List[Path]) -> str:
    bags = [path for path in paths if path.suffix == ROS1]
    if not bags:
        return ""
    return "; %s is of ROS 1: rosbags-convert --src %s --dst FOLDER makes a bag of it" % (
        bags[0].name, bags[0].name,
    )  # fmt: skip


def _few(paths: List[Path]) -> str:
    names = [item.name for item in paths]
    return ", ".join(names[:5]) + (" and %d more" % (len(names) - 5) if len(names) > 5 else "")


def _read_metadata(path: Path, report: Report) -> Metadata:
    """The content of metadata.yaml; empty, and reported, where it cannot be used."""
    if not path.exists():
        # A recorder that was killed leaves none.
        report("%s: no such file; the bag is read without it" % path)
        return Metadata()
    try:
        content = read_yaml(str(path))["rosbag2_bagfile_information"]
        if not isinstance(content, dict):
            raise TypeError("no mapping")
        for key, kind in METADATA_TYPES.items():
            if not isinstance(content.get(key) or kind(), kind):
                raise TypeError("%s is %s" % (key, shown(content[key])))
        metadata = Metadata(
            tuple(Path(str(name)).name for name in content.get("relative_file_paths") or ()),
            {
                str(item["topic_metadata"]["name"]): int(item["message_count"])
                for item in content.get("topics_with_message_count") or ()
            },
            {str(key): str(value) for key, value in (content.get("custom_data") or {}).items()},
        )
    except (ContentError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        found = error.reason if isinstance(error, ContentError) else reason(error)
        report("%s: not readable (%s); the bag is read without it" % (path, found))
        return Metadata()
    version = content.get("version")
    if isinstance(version, int) and version > NEWEST_METADATA:
        raise BagError("%s: version %d; expected at most %d" % (path, version, NEWEST_METADATA))
    return metadata


def _natural(path: Path) -> List[Any]:
    """Sorts drive_10 behind drive_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]
