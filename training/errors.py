"""Errors of training whose message is one line for the user, and how a command shows one."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from segmentation_node.errors import OutputError, SegmentationError


class TrainingError(SegmentationError):
    """A run that cannot be started or continued as asked."""


class RecipeError(TrainingError, ValueError):
    """A recipe that says something impossible."""


class DivergedError(TrainingError, FloatingPointError):
    """A loss that is no number any more, or that grows instead of falling."""


class ExportError(TrainingError, RuntimeError):
    """A graph that does not give what the network gives."""


def exit_code(command: Callable[[], int]) -> int:
    """A command's exit code; a known error, or a file that fails, is one line and 1."""
    try:
        return command()
    except (SegmentationError, OSError) as error:
        print(f"error: {reason(error)}", file=sys.stderr)
        return 1


@contextlib.contextmanager
def writing(path: Path, *errors: type[Exception]) -> Iterator[None]:
    """Name the file that cannot be written, by an OutputError; of OSErrors and of ``errors``."""
    kinds: tuple[type[Exception], ...] = (OSError, *errors)
    try:
        yield
    except kinds as error:
        raise OutputError(f"{path}: cannot be written ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """What an error says, as one line of bounded length; its kind where it says nothing."""
    return " ".join(str(error).split())[:1000] or type(error).__name__
