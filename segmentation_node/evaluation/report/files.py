"""Figures as a JSON file."""

import json
import math
from typing import Any, Dict

from segmentation_node.files import write_whole


def write_json(path: str, content: Dict[str, Any]) -> None:
    """Write a JSON file; NaN and infinity, which JSON does not have, become null."""
    write_whole(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
