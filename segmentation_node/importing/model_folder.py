"""What a model folder made here holds: its files by variant, and their card."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.run.accuracy import Accuracy
from segmentation_node.files import new_file
from segmentation_node.model_card import (
    CARD_FILE,
    ConfidenceInfo,
    Size,
    parse_card,
    sha256_of,
    size_text,
)
from segmentation_node.pipeline import Segmenter
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
FILES = (
    *[file for file, _, _ in ARTIFACTS.values()],
    "model_*[0-9]x[0-9]*.onnx",
    "model_*batch[0-9]*.onnx",
)
"""Patterns of the files that a ``Form`` may have."""


@dataclass(frozen=True)
class Form:
    """A graph as one file: its variant, size and images a run.

    The first size and the first batch of a folder are not in the file's name; the first size is
    the card's own. ``int8_weights``: stored so, and decoded to float32 by the graph itself.
    """

    variant: str
    size: Size
    batch: int = 1
    is_other_size: bool = False
    is_other_batch: bool = False
    int8_weights: bool = False

    @property
    def file(self) -> str:
        """Its name, for example model_int8_240x320.onnx."""
        path = Path(ARTIFACTS[self.variant][0])
        size = f"_{size_text(self.size)}" if self.is_other_size else ""
        batch = f"_batch{self.batch}" if self.is_other_batch else ""
        return f"{path.stem}{size}{batch}{path.suffix}"

    def artifact(self, folder: Path, opset: int = OPSET) -> dict[str, Any]:
        """The card's entry for the file in this folder."""
        _, kind, description = ARTIFACTS[self.variant]
        if self.int8_weights:
            description += ", weights stored as int8"
        entry = artifact(folder / self.file, kind, f"opset {opset}, {description}")
        if self.is_other_size:
            entry.update(height=self.size[0], width=self.size[1])
        return {**entry, **({"batch": self.batch} if self.batch > 1 else {})}


def forms_of(
    variants: Sequence[str], sizes: Sequence[Size], batches: Sequence[int] = (1,)
) -> list[Form]:
    """All files of a folder: each variant in each size and batch."""
    return [
        Form(variant, size, batch, size != sizes[0], batch != batches[0])
        for size in dict.fromkeys(sizes)
        for batch in dict.fromkeys(batches)
        for variant in variants
    ]


def artifact(path: Path, kind: str, version: str) -> dict[str, Any]:
    """The card's entry for a file, which everybody may read from now on."""
    path.chmod(0o644)
    return {"file": path.name, "kind": kind, "sha256": sha256_of(str(path)), "version": version}


def accuracy_entry(
    segmenter: Segmenter,
    dataset: str,
    split: str,
    result: Accuracy,
    agreement: float | None = None,
) -> dict[str, Any]:
    """The card's entry for what a segmenter scored, over whole images and all classes.

    ``agreement`` is the share of the pixels that get the class of fp32. Raises DatasetError where
    no pixel is labelled.
    """
    if not result.matrix.counts.any():
        raise DatasetError(
            f"{dataset} {split}: no pixel is labelled, and the card's accuracy is measured on it; "
            "label its pictures, or take another split"
        )
    backend, card = segmenter.backend, segmenter.card
    precision = backend.options.precision
    entry: dict[str, Any] = {
        "dataset": dataset,
        "split": split,
        "frames": result.frames,
        "mean_iou": round(result.matrix.mean_iou(), 4),
        "global_accuracy": round(result.matrix.global_accuracy(), 4),
        "artifact": backend.kind_for(precision),
    }
    if precision not in ("fp32", "int8"):  # which the artifact itself says
        entry["precision"] = precision
    if agreement is not None:
        entry["agreement"] = round(agreement, 5)
    if card.is_resized:
        entry.update(height=card.input.height, width=card.input.width)
    return entry


def add_to_card(
    folder: str, files: Mapping[str, bytes] | None = None, **entries: dict[str, Any]
) -> None:
    """Put an entry of ``artifacts`` or ``accuracy`` on the card in a folder, with ``files``.

    It replaces the one of the same file, or of the same data, size and precision. Raises as
    ``write_card``.
    """
    content: dict[str, Any] = read_yaml(str(Path(folder) / CARD_FILE))
    for key, entry in entries.items():
        others = [item for item in content[key] if _identity(item) != _identity(entry)]
        content[key] = [*others, entry]
    write_card(Path(folder), content, files)


def _identity(entry: dict[str, Any]) -> list[Any]:
    """What tells an entry of the card's lists from others of the same list."""
    keys = ("kind", "dataset", "split", "artifact", "precision", "height", "width", "batch")
    defaults = {"artifact": "onnx", "precision": "", "batch": 1}
    return [entry.get(key, defaults.get(key)) for key in keys]


def confidence_entry(measured: ConfidenceInfo | None, temperature: float) -> dict[str, float]:
    """The card's key ``confidence``; a temperature of 1 need not be said."""
    entry = {} if temperature == 1.0 else {"temperature": temperature}
    return {**entry, **(vars(measured) if measured else {})}


def put_on_card(folder: str, **changes: Any) -> None:
    """Set keys of the card in a folder, and leave the others as they are. Raises CardError."""
    content: dict[str, Any] = read_yaml(str(Path(folder) / CARD_FILE))
    write_card(Path(folder), {**content, **changes})


def write_card(
    folder: Path, card: dict[str, Any], files: Mapping[str, bytes] | None = None
) -> None:
    """Validate the card and put it beside its artifacts, of which it replaces ``files`` by name.

    Raises CardError, or OutputError where one cannot be written: then none is replaced. All are on
    the disk, and everybody may read them, before the first takes its place; the card is the last,
    so that its hashes tell of a run that is killed between the two.
    """
    text = yaml.safe_dump(card, sort_keys=False, width=96)
    parse_card(parse_yaml(text, CARD_FILE), str(folder))
    contents = {CARD_FILE: text.encode("utf-8"), **(files or {})}
    with ExitStack() as taking_their_places:
        for name, content in contents.items():
            partial = taking_their_places.enter_context(new_file(str(folder / name)))
            with open(partial, "wb") as out:
                out.write(content)
                out.flush()
                os.fchmod(out.fileno(), 0o644)
                os.fsync(out.fileno())
