"""The manifest beside an engine: what it was built from, by what, and for which machine."""

import hashlib
import os
from dataclasses import dataclass, fields
from typing import Any, Dict, List, NamedTuple, Sequence

from segmentation_node.backends.tensorrt.versions import TensorInfo
from segmentation_node.errors import BackendError, ContentError, shown
from segmentation_node.model_card import ArtifactInfo, ModelCard
from segmentation_node.yaml_and_json import read_json

FORMAT = 1


class Machine(NamedTuple):
    """What an engine is bound to; ``l4t`` is empty where this is no Jetson."""

    tensorrt: str
    compute_capability: str
    gpu: str
    cuda: str
    l4t: str


@dataclass(frozen=True)
class Manifest:
    """Everything that is known about an engine. ``tensors`` are name, direction, shape, dtype."""

    format: int
    model: str
    network: str
    precision: str
    onnx_kind: str
    onnx_sha256: str
    engine_sha256: str
    engine_bytes: int
    tensorrt: str
    compute_capability: str
    gpu: str
    cuda: str
    l4t: str
    workspace_mib: int
    tensors: List[Dict[str, Any]]


def make_manifest(
    card: ModelCard,
    artifact: ArtifactInfo,
    precision: str,
    workspace_mib: int,
    machine: Machine,
    plan: bytes,
    tensors: Sequence[TensorInfo],
) -> Manifest:
    """The manifest of a serialised engine, ``plan``, built from an artifact of the card."""
    return Manifest(
        format=FORMAT,
        model=card.name,
        network=card.network.name,
        precision=precision,
        onnx_kind=artifact.kind,
        onnx_sha256=artifact.sha256,
        engine_sha256=sha256(plan),
        engine_bytes=len(plan),
        workspace_mib=workspace_mib,
        tensors=_describe(tensors),
        **machine._asdict(),
    )


def read_manifest(path: str) -> Manifest:
    """Read a manifest. Raises BackendError on anything that is none."""
    if not os.path.isfile(path):
        raise BackendError(
            "the engine has no manifest %s that says what it is" % os.path.basename(path)
        )
    try:
        values = read_json(path)
    except ContentError as error:
        raise BackendError(
            "its manifest %s: %s" % (os.path.basename(path), error.reason)
        ) from error
    problem = _malformed(values)
    if problem:
        raise BackendError("its manifest %s %s" % (os.path.basename(path), problem))
    return Manifest(**values)


def recorded_tensors(manifest: Manifest) -> List[TensorInfo]:
    """The tensors of a manifest. Raises BackendError where they are none."""
    try:
        return [
            TensorInfo(
                str(item["name"]),
                item["direction"] == "input",
                tuple(int(length) for length in item["shape"]),
                str(item["dtype"]),
            )
            for item in manifest.tensors
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise BackendError(
            "its manifest has tensors %s; expected name, direction, shape and dtype of each"
            % shown(manifest.tensors)
        ) from error


def sha256(content: bytes) -> str:
    """Of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _describe(tensors: Sequence[TensorInfo]) -> List[Dict[str, Any]]:
    """Tensors as a manifest keeps them."""
    return [
        {
            "name": tensor.name,
            "direction": "input" if tensor.is_input else "output",
            "shape": list(tensor.shape),
            "dtype": tensor.dtype,
        }
        for tensor in tensors
    ]


def _malformed(values: Any) -> str:
    plain: Dict[Any, type] = {int: int, str: str}
    types = {item.name: plain.get(item.type, list) for item in fields(Manifest)}
    if not isinstance(values, dict):
        return "is a %s, expected keys %s" % (type(values).__name__, sorted(types))
    missing, unknown = sorted(set(types) - set(values)), sorted(set(values) - set(types))
    if missing or unknown:
        return "lacks the keys %s and has the unknown %s" % (missing, shown(unknown))
    if values["format"] != FORMAT:
        return "has format %s, expected %d" % (shown(values["format"]), FORMAT)
    for name, wanted in types.items():
        if not isinstance(values[name], wanted):
            return "has %s %s, expected %s" % (name, shown(values[name]), wanted.__name__)
    return ""
