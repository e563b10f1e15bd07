"""What a user named appears whole or not at all, and takes only the place of what is ours.

Nothing else in the package removes or renames anything. A run that is killed leaves, beside the
place it was to take, a hidden ``.NAME.partial``, which the next run to that place clears away.
"""

import contextlib
import fcntl
import fnmatch
import os
import shutil
import time
from typing import Iterable, Iterator, NamedTuple, Tuple, Union

from segmentation_node.errors import OutputError, reason

MARK_WITHIN_BYTES = 1 << 24
ASK_AGAIN_S = 0.05


class Layout(NamedTuple):
    """What a command writes into a folder of its own: that, and nothing else, it replaces.

    ``files`` are patterns of relative paths; ``marker`` is the one that tells whose the folder is,
    by the text ``mark`` in it.
    """

    what: str
    files: Tuple[str, ...]
    marker: str
    mark: str


def plain_name(name: str) -> str:
    """The name, where it is one component of a path. Raises OutputError."""
    if not name or name[0] == "." or any(character in "/\\\0" for character in name):
        raise OutputError(
            "%r is no name; expected one without separators and without a dot at its start" % name
        )
    return name


def check_folder(path: str, layout: Layout, sources: Iterable[str] = ()) -> None:
    """Raise OutputError unless ``path`` is absent, empty, or holds what ``layout`` says alone.

    It may not be one of ``sources`` nor hold one, by whatever links.
    """
    place = os.path.realpath(path)
    for source in sources:
        if source and os.path.commonpath([place, os.path.realpath(source)]) == place:
            raise OutputError("%s is read, or holds what is read: it is left alone" % path)
    if not os.path.lexists(place):
        return
    if not os.path.isdir(place):
        raise OutputError("%s is a file, expected a folder: it is left alone" % path)
    found = sorted(_entries(place))
    for name in found:
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in layout.files):
            raise _foreign(path, layout.what, "it holds %s" % name)
    if found and not has_mark(os.path.join(place, layout.marker), layout.mark):
        reason = "its %s is missing or another's" % layout.marker
        raise _foreign(path, layout.what, reason)


def check_file(path: str, what: str, mark: str) -> None:
    """Raise OutputError unless ``path`` is absent, empty, or a file with ``mark`` in it."""
    if not os.path.lexists(path) or (os.path.isfile(path) and not os.path.getsize(path)):
        return
    if not has_mark(path, mark):
        raise _foreign(path, what, "something else is there")


def has_mark(path: str, mark: str) -> bool:
    """Whether this is a file that has the text near its start."""
    if not os.path.isfile(path):
        return False
    with _told(path, "read"), open(path, "rb") as content:
        return mark.encode("utf-8") in content.read(MARK_WITHIN_BYTES)


@contextlib.contextmanager
def new_folder(
    path: str, layout: Layout, sources: Iterable[str] = (), replace: bool = True
) -> Iterator[str]:
    """The path at which to make a folder; when the block ends well, it takes ``path``'s place.

    What was there is moved aside, and deleted once the new folder is in place. Where the block
    fails all stays as it was. Raises OutputError as ``check_folder`` does, while another run
    writes there, where the place cannot be taken, and under ``replace`` false where it is taken.
    """
    place = os.path.realpath(path)
    folder, name = os.path.split(place)
    stage = os.path.join(folder, ".%s.partial" % name)
    new, old, lock = (os.path.join(stage, name + ending) for ending in ("", ".old", ".lock"))
    with _told(path):
        _check_stage(stage, lock)
        check_folder(path, layout, sources)
        os.makedirs(stage, exist_ok=True)
    with _locked(lock, path):
        try:
            with _told(path):
                if os.path.lexists(old) and not os.path.lexists(place):
                    os.rename(old, place)  # a run was killed between the two moves
                _clear(stage, lock)
                if os.path.lexists(place) and not replace:
                    raise OutputError("%s is there already; --force replaces it" % path)
            yield new
            with _told(path):
                check_folder(path, layout, sources)  # hours may have passed
                _swap(place, new, old)
        finally:
            with _told(path):
                _clear(stage, lock)
                os.unlink(lock)
                os.rmdir(stage)


@contextlib.contextmanager
def new_file(path: str) -> Iterator[str]:
    """The path of a file to write, which replaces ``path`` when the block ends well.

    Its content is on the disk before that. Makes the folder. Raises OutputError where it cannot
    be written, and leaves nothing then.
    """
    place = os.path.realpath(path)
    folder, name = os.path.split(place)
    if os.path.lexists(place) and not os.path.isfile(place):
        raise OutputError("%s is there and is no file: it is left alone" % path)
    partial = os.path.join(folder, ".%s.partial" % name)
    with _told(path):
        os.makedirs(folder, exist_ok=True)
        with _locked(partial, path):
            try:
                yield partial
                with open(partial, "rb") as content:
                    os.fsync(content.fileno())
                os.replace(partial, place)
            except BaseException:
                os.unlink(partial)
                raise


def write_whole(path: str, content: Union[str, bytes]) -> None:
    """Write a file, text as UTF-8, with its folder. Raises OutputError as ``new_file`` does.

    What UTF-8 has no form for, as bytes of a file's name that are none, becomes ``\\udcXX``.
    """
    if not isinstance(content, bytes):
        content = content.encode("utf-8", "backslashreplace")
    with new_file(path) as partial, open(partial, "wb") as out:
        out.write(content)


def remove_file(path: str) -> None:
    """Remove a file that the caller wrote, if it is there. Raises OutputError."""
    with _told(path, "removed"), contextlib.suppress(FileNotFoundError):
        os.unlink(path)


@contextlib.contextmanager
def alone_in(folder: str, most_s: float) -> Iterator[bool]:
    """Keep others that ask for the same folder waiting; false where they took longer than that.

    Makes the folder. Where that, or a lock, is not to be had, nobody is waited for. A process that
    is killed lets go.
    """
    try:
        os.makedirs(folder, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield True
        return
    try:
        yield _lock_within(handle, most_s)
    finally:
        os.close(handle)


def _lock_within(handle: int, most_s: float) -> bool:
    ends_s = time.monotonic() + most_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= ends_s:
                return False
            time.sleep(ASK_AGAIN_S)
        except OSError:  # a file system without locks
            return True


def _entries(folder: str) -> Iterator[str]:
    """Files, links and empty folders below a folder, relative to it."""
    for parent, folders, files in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        is_empty = parent != folder and not folders and not files
        for path in [os.path.join(parent, name) for name in files + links] + [parent] * is_empty:
            yield os.path.relpath(path, folder)


def _raise(error: OSError) -> None:
    raise error


def _check_stage(stage: str, lock: str) -> None:
    if os.path.lexists(stage) and not os.path.lexists(lock) and os.listdir(stage):
        raise OutputError("%s is in the way and not a run's of ours: move it away" % stage)


def _foreign(path: str, what: str, reason: str) -> OutputError:
    return OutputError("%s is not %s (%s): it is left alone; name another" % (path, what, reason))


def _swap(place: str, new: str, old: str) -> None:
    if os.path.lexists(place):
        os.rename(place, old)
    try:
        os.rename(new, place)
    except OSError:
        if os.path.lexists(old):
            os.rename(old, place)
        raise


def _clear(stage: str, lock: str) -> None:
    """Remove what a stage holds but its lock, by which the next run knows whose it is."""
    for name in os.listdir(stage):
        path = os.path.join(stage, name)
        if path == lock:
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


@contextlib.contextmanager
def _locked(lock: str, path: str) -> Iterator[None]:
    """A file that is this run's alone; a run that is killed lets go of it."""
    handle = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.fstat(handle), os.stat(lock))
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:
            raise OutputError("%s: another run is writing it" % path)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _told(path: str, verb: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = reason(error.strerror or error)
        raise OutputError("%s: cannot be %s (%s)" % (path, verb, why)) from error
