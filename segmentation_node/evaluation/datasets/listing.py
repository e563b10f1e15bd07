"""The files of a folder: in natural order, hidden ones left out, each place visited once."""

import os
import re
from typing import Iterable, Iterator, List, Sequence, Set, Tuple

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
