"""What a model folder made here holds: its files by variant, and their card."""

from pathlib import Path
from typing import Any

import yaml

from segmentation_node.files import write_whole
from segmentation_node.model_card import CARD_FILE, parse_card, sha256_of
from segmentation_node.yaml_and_json import parse_yaml, read_yaml

OPSET = 13
"""What TensorRT 8.2 and ONNX Runtime 1.10 can read, and today's versions too."""
ARTIFACTS = {
    "uint8": ("model.onnx", "onnx", "uint8 in and out"),
    "float": ("model_float.onnx", "onnx_float", "float32 in, int32 out"),
    "fp16": ("model_fp16.onnx", "onnx_fp16", "float16 inside, uint8 in and out"),
    "int8": ("model_int8.onnx", "onnx_int8", "int8 convolutions (QDQ), uint8 in and out"),
}
"""File, kind on the card and description, by variant."""


def onnx_artifact(folder: Path, variant: str, opset: int = OPSET) -> dict[str, Any]:
    """The card's entry for a variant's file in this folder."""
    file, kind, description = ARTIFACTS[variant]
    return artifact(folder / file, kind, f"opset {opset}, {description}")


def artifact(path: Path, kind: str, version: str) -> dict[str, Any]:
    """The card's entry for a file, which everybody may read from now on."""
    path.chmod(0o644)
    return {"file": path.name, "kind": kind, "sha256": sha256_of(str(path)), "version": version}


def put_on_card(folder: str, **changes: Any) -> None:
    """Set keys of the card in a folder, and leave the others as they are. Raises CardError."""
    content: dict[str, Any] = read_yaml(str(Path(folder) / CARD_FILE))
    write_card(Path(folder), {**content, **changes})


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Validate the card and put it beside its artifacts."""
    text = yaml.safe_dump(card, sort_keys=False, width=96)
    parse_card(parse_yaml(text, CARD_FILE), str(folder))
    write_whole(str(folder / CARD_FILE), text)
