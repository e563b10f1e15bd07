"""What a bag consists of: topics, messages as recorded, and what could not be read."""

from dataclasses import dataclass
from typing import Callable, NamedTuple


@dataclass(frozen=True, order=True)
class Topic:
    """A topic of a bag; ``latched``: its publishers offered transient local."""

    name: str
    type: str
    count: int
    latched: bool = False


class RawMessage(NamedTuple):
    """A message as it was recorded: ``data`` is its CDR with the encapsulation header."""

    topic: str
    type: str
    recorded_ns: int
    data: bytes


class Problem(NamedTuple):
    """Something in a bag that could not be used: where, and why. One line together.

    ``is_frame``: one frame is left out of the score for it.
    """

    name: str
    reason: str
    is_frame: bool = False

    def __str__(self) -> str:
        return "%s: %s" % (self.name, self.reason)


Report = Callable[[Problem], None]


def one_line(error: BaseException) -> str:
    """An error's message as one line, or its kind where it has none."""
    return " ".join(str(error).split()) or type(error).__name__
