"""Where the shipped models are: in the source tree, or installed under share/."""

import os

PACKAGE = "segmentation_node"


def models_folder() -> str:
    """The folder of the shipped models; empty when there is none.

    ``models/`` beside the package where it runs from the source tree, otherwise
    ``share/segmentation_node/models`` in a prefix of ``AMENT_PREFIX_PATH``.
    """
    source_tree = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    candidates = [os.path.join(source_tree, "models")]
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        candidates.append(os.path.join(prefix, "share", PACKAGE, "models"))
    for candidate in candidates:
        if os.path.isdir(candidate):
            return candidate
    return ""
