"""Errors whose message is one line for the user: what was found, what was expected, what to do."""

import reprlib
import sys
from typing import Any, Callable

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""


class SegmentationError(Exception):
    """A known error. Whoever catches it shows the message; anything else keeps its traceback."""


class ContentError(SegmentationError):
    """A file that should hold YAML or JSON and cannot be read as that, for this reason."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__("%s: %s" % (path, reason))
        self.reason = reason


class CardError(SegmentationError):
    """A model card, or a file that it names, that cannot be used."""


class NetworkError(SegmentationError, ValueError):
    """A network that there is none of, or that does not take its options."""


class BackendError(SegmentationError):
    """A backend that cannot be chosen, loaded or run as asked."""


class ImageError(SegmentationError):
    """An image that cannot be segmented."""


class GeometryError(SegmentationError):
    """A roi, rotation or mask that no image can have."""


class NetworkImportError(SegmentationError):
    """A foreign network that cannot become a model folder: the message says what is missing."""


class DatasetError(SegmentationError):
    """A data set that cannot be read: the message names the file and what was expected."""


class BagError(SegmentationError):
    """A bag that cannot be read or written: the message names the file or topic."""


class ReplayError(SegmentationError):
    """A node that does not start, or that ends while images are played into it."""


class OutputError(SegmentationError):
    """A file or folder that cannot be written, or whose place something else has."""


class FleetError(SegmentationError):
    """Drives or reports of a fleet that cannot be found, read or merged."""


class LabelsError(SegmentationError, ValueError):
    """A label set or a grouping that cannot be used: the message names the file and the entry."""


def exit_code(command: Callable[[], int]) -> int:
    """What a command gives; 1 after a known error or a file that fails, 130 after Ctrl-C.

    Either is told in one line.
    """
    try:
        return command()
    except (SegmentationError, OSError) as error:
        print("error: %s" % reason(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(": ".join(["interrupted"] + [str(item) for item in interrupt.args]), file=sys.stderr)
        return INTERRUPTED


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 8
_SHORT.maxstring = _SHORT.maxother = 80


def shown(value: Any) -> str:
    """A refused value as a message shows it: its ``repr``, cut where that is long."""
    return _SHORT.repr(value)


def reason(error: object) -> str:
    """What an error or a log says, as one line of bounded length; the kind of a silent error."""
    line = " ".join(str(error).split())[:1000]
    return line or (type(error).__name__ if isinstance(error, BaseException) else "")
