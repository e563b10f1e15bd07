"""What is in a file of a data set, or the one line that says why that cannot be read."""

import os
import stat
from typing import Callable, Dict

from segmentation_node.errors import DatasetError


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
