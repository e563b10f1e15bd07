"""Errors whose message is one line for the user: what was found, what was expected, what to do."""


def one_line(said: object) -> str:
    """An error or a text without its line breaks; the name of an error that says nothing."""
    text = " ".join(str(said).split())
    return text or (type(said).__name__ if isinstance(said, BaseException) else "")


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
