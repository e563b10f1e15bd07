"""What only some commands need, and some machines lack."""

from typing import Any

from segmentation_node.errors import BagError


def import_bags() -> Any:
    """The package ``evaluation.bags``. Raises BagError where its library is missing."""
    try:
        from segmentation_node.evaluation import bags
    except ImportError as error:
        raise BagError(
            "bags need rosbags, and that Python 3.10 or newer: run make setup (%s)" % error
        ) from error
    return bags
