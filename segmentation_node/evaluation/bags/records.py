"""What a bag consists of: topics and messages as recorded."""

from dataclasses import dataclass
from typing import Callable, NamedTuple, Tuple

ROS2_ENCODINGS = ("cdr", "")
# A topic that has several types over the files of a bag.
BETWEEN_TYPES = "|"


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


Placed = Tuple[int, RawMessage]
"""A message and the byte at which its part of the file begins, 0 where the file is one part.

Whoever reads a part gives the messages of a topic that lie in it in one order.
"""


def type_name(type_: str, encoding: str) -> str:
    """A topic's type; what is no ROS 2 message has its encoding before it, and so is no type."""
    return type_ if encoding in ROS2_ENCODINGS else "%s %s" % (encoding, type_)


Report = Callable[[str], None]
"""Takes what damage of a bag was found: one line that names the file or topic."""

# Keys of metadata.yaml's custom_data.
DATASET, SPLIT, SINGLE = (
    "segmentation_node.dataset",
    "segmentation_node.split",
    "segmentation_node.single_images",
)
# Ends the LabelInfo's ``model`` of such images: it is recorded again, custom_data is not.
SINGLE_IMAGES = ", single images"
