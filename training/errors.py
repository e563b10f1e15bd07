"""Errors of training whose message is one line for the user, and how a failed write is told."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from segmentation_node.errors import OutputError, SegmentationError, reason


class TrainingError(SegmentationError):
    """A run that cannot be started or continued as asked."""


class RecipeError(TrainingError, ValueError):
    """A recipe that says something impossible."""


class DivergedError(TrainingError, FloatingPointError):
    """A loss that is no number any more, or that grows instead of falling."""


class ExportError(TrainingError, RuntimeError):
    """A graph that does not give what the network gives."""


@contextlib.contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Name the file that cannot be written, by an OutputError; of OSErrors and of ``errors``."""
    kinds: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except kinds as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)})") from error
