"""Errors whose message is one line for the user: what was found, what was expected, what to do."""

import sys
from typing import Callable

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C ended, as shells have it."""


class SegmentationError(Exception):
    """A known error. Whoever catches it shows the message; anything else keeps its traceback."""


class CardError(SegmentationError):
    """A model card, or a file that it names, that cannot be used."""


class BackendError(SegmentationError):
    """A backend that cannot be chosen, loaded or run as asked."""


class ImageError(SegmentationError):
    """An image that cannot be segmented."""


class DatasetError(SegmentationError):
    """A data set that cannot be read: the message names the file and what was expected."""


class BagError(SegmentationError):
    """A bag that cannot be read or written: the message names the file or topic."""


class ReplayError(SegmentationError):
    """A node that does not start, or that ends while images are played into it."""


class OutputError(SegmentationError):
    """A file or folder that cannot be written, or whose place something else has."""


class LabelsError(SegmentationError, ValueError):
    """A label set or a grouping that cannot be used: the message names the file and the entry."""


def exit_code(command: Callable[[], int]) -> int:
    """What a command gives; 1 after a known error and 130 after Ctrl-C, told in one line."""
    try:
        return command()
    except SegmentationError as error:
        print("error: %s" % error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        print(": ".join(["interrupted"] + [str(item) for item in interrupt.args]), file=sys.stderr)
        return INTERRUPTED
