"""Files that appear whole or not at all."""

import json
import math
import os
from typing import Any, Dict


def write_json(path: str, content: Dict[str, Any]) -> None:
    """Write a JSON file; NaN and infinity, which JSON does not have, become null."""
    write_text(path, json.dumps(_plain(content), indent=2, allow_nan=False) + "\n")


def write_text(path: str, text: str) -> None:
    """Write a UTF-8 file, with its folder."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    partial = path + ".partial"
    with open(partial, "w", encoding="utf-8") as out:
        out.write(text)
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
