"""A folder of small files, on this machine or, by its URL, through fsspec."""

import os
from contextlib import contextmanager
from typing import Any, Iterator, List, Optional

from segmentation_node.errors import FleetError, reason
from segmentation_node.files import remove_file, write_whole


class Folder:
    """Files of a local folder; each appears whole or not at all."""

    def __init__(self, path: str) -> None:
        self.path = path

    def names(self) -> List[str]:
        """What is there, sorted; nothing where the folder is missing."""
        if not os.path.isdir(self.path):
            return []
        return sorted(name for name in os.listdir(self.path) if name[0] != ".")

    def read(self, name: str) -> str:
        """A file's text."""
        with open(os.path.join(self.path, name), encoding="utf-8") as stream:
            return stream.read()

    def write(self, name: str, text: str) -> None:
        """Write a file, or take another's place."""
        write_whole(os.path.join(self.path, name), text)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        remove_file(os.path.join(self.path, name))


class Bucket(Folder):
    """The same at a URL. An object store shows an object only once all of it was sent."""

    def __init__(self, url: str, endpoint_url: Optional[str] = None) -> None:
        super().__init__(url.rstrip("/"))
        self._files = file_system(url, endpoint_url)

    def names(self) -> List[str]:
        self._files.invalidate_cache()
        try:
            with reaching(self.path):
                found = self._files.ls(self.path, detail=False)
        except FileNotFoundError:
            return []
        return sorted(item.rsplit("/", 1)[-1] for item in found)

    def read(self, name: str) -> str:
        with reaching(self.path):
            return self._files.cat_file(self._at(name)).decode("utf-8")

    def write(self, name: str, text: str) -> None:
        with reaching(self.path):
            self._files.pipe_file(self._at(name), text.encode("utf-8"))

    def remove(self, name: str) -> None:
        with reaching(self.path):
            if self._files.exists(self._at(name)):
                self._files.rm_file(self._at(name))

    def _at(self, name: str) -> str:
        return "%s/%s" % (self.path, name)


def open_folder(path: str, endpoint_url: Optional[str] = None) -> Folder:
    """The folder of this path or URL."""
    return Bucket(path, endpoint_url) if is_url(path) else Folder(path)


def is_url(path: str) -> bool:
    """Whether it names something that fsspec opens, and not a local path."""
    return "://" in path


def file_system(url: str, endpoint_url: Optional[str] = None) -> Any:
    """fsspec's file system of a URL.

    Raises FleetError, one line, where fsspec or what the protocol needs is not installed.
    """
    protocol = url.partition("://")[0]
    try:
        import fsspec

        options = {"endpoint_url": endpoint_url} if endpoint_url else {}
        return fsspec.filesystem(protocol, **options)
    except (ImportError, ValueError, TypeError) as error:
        raise FleetError(
            "%s cannot be opened (%s): run make setup-fleet, which brings fsspec and s3fs; other "
            "protocols need their own package" % (url, reason(error))
        ) from error


@contextmanager
def reaching(url: str) -> Iterator[None]:
    """Turns what a store's own library raises into a FleetError, one line; OSError goes on."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise FleetError("%s: %s: %s" % (url, type(error).__name__, reason(error))) from error
