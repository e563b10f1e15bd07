"""The files of a data set: listed in natural order, and read, or the one line that says why not."""

import os
import re
import stat
from typing import Callable, Dict, Iterable, Iterator, List, Sequence, Set, Tuple

from segmentation_node.errors import DatasetError

NAMED = 5

Key = Tuple[Tuple[int, int, str], ...]


def natural(name: str) -> Key:
    """A key that sorts frame2 before frame10: digits by their value, the rest as text."""
    parts = re.findall("[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts)


def in_order(names: Iterable[str]) -> List[str]:
    """Names in natural order."""
    return sorted(names, key=natural)


def names_in(folder: str) -> List[str]:
    """Names in a folder in natural order, without hidden ones (a Mac's ``._x`` beside ``x``)."""
    return in_order(name for name in os.listdir(folder) if not name.startswith("."))


def files_below(folder: str) -> Iterator[str]:
    """Paths of all files below a folder, relative to it, through links too; none twice.

    A link that leads nowhere is one of them: reading it says so.
    """
    return _below(folder, "", set())


def left_out(folder: str, reason: str, names: Sequence[str]) -> Tuple[str, ...]:
    """A note of what lies in a folder and is not read, the first few by name; none without any."""
    if not names:
        return ()
    listed = list(names[:NAMED]) + ["..."] * (len(names) > NAMED)
    return ("%s: left out, %s (%d): %s" % (folder, reason, len(names), ", ".join(listed)),)


def read_bytes(path: str, limit: int = -1) -> bytes:
    """A file's first ``limit`` bytes, or all. Raises DatasetError that names the file."""
    if os.path.islink(path) and not os.path.exists(path):
        raise DatasetError(
            "%s: a link to %s, where there is no file; fetch it, or remove the link"
            % (path, os.readlink(path))
        )
    try:
        # What is neither file nor folder, as a pipe, may never end.
        if not stat.S_ISREG(os.stat(path).st_mode) and not os.path.isdir(path):
            raise DatasetError("%s: found no regular file; remove it" % path)
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise DatasetError("%s: %s" % (path, error.strerror)) from error


def read_text(path: str, limit: int = -1) -> str:
    """The same as text, without the mark that some editors begin a file with."""
    return read_bytes(path, limit).decode("utf-8-sig", "replace")


def read_list(path: str, key_of: Callable[[str], str]) -> Dict[str, str]:
    """What a text file lists, a key a line, in its order; of each why it is missed where it is.

    ``key_of`` gives a line's key, empty where it has none. Raises DatasetError on a file that
    cannot be read, and on a key that is listed twice.
    """
    found: Dict[str, str] = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        key = key_of(line.strip())
        if key in found:
            raise DatasetError("%s, line %d: %s is listed twice" % (path, number, key))
        if key:
            found[key] = "%s, line %d, asks for it" % (path, number)
    return found


def _below(folder: str, prefix: str, seen: Set[str]) -> Iterator[str]:
    place = os.path.realpath(folder)
    if place in seen:  # a link that leads back
        return
    seen.add(place)
    for name in names_in(folder):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            for found in _below(path, os.path.join(prefix, name), seen):
                yield found
        else:
            yield os.path.join(prefix, name)
