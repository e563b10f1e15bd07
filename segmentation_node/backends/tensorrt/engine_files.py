"""Engines on disk: where they lie, their manifests, and what is checked before one is loaded.

An engine is native code for one TensorRT version and one kind of GPU. It is deserialised only after
its manifest was held against the machine and the card, and its bytes against the manifest.
"""

import hashlib
import json
import os
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Sequence, Tuple

from segmentation_node.backends.base import BackendOptions
from segmentation_node.backends.tensorrt.versions import TensorInfo
from segmentation_node.errors import BackendError, ContentError, shown
from segmentation_node.files import write_whole
from segmentation_node.model_card import ArtifactInfo, ModelCard, size_text
from segmentation_node.plain_values import build
from segmentation_node.yaml_and_json import read_json

DEFAULT_ENGINE_DIR = BackendOptions().engine_dir
FORMAT = 1  # of a manifest


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
    tensors: List[Any]


def engine_folder(engine_dir: str) -> str:
    """``engine_dir`` with ``~`` resolved."""
    return os.path.abspath(os.path.expanduser(engine_dir))


def engine_name(
    card: ModelCard, options: BackendOptions, tensorrt_version: str, compute_capability: str
) -> str:
    """File name of an engine: model, size, precision, TensorRT version, compute capability.

    Behind the size the batch, where one was asked for.
    """
    size = "%dx%d" % (card.input.width, card.input.height)
    size += "_batch%d" % options.batch if options.batch > 1 else ""
    capability = "sm" + compute_capability.replace(".", "")
    parts = (card.name, size, options.precision, "trt" + tensorrt_version, capability)
    return re.sub(r"[^A-Za-z0-9_.?-]", "-", "_".join(parts)) + ".engine"


def engine_path(card: ModelCard, options: BackendOptions, machine: Machine) -> str:
    """Where the engine for this card, these options and this machine lies, or would lie."""
    name = engine_name(card, options, machine.tensorrt, machine.compute_capability)
    return os.path.join(engine_folder(options.engine_dir), name)


def manifest_path(engine: str) -> str:
    """The manifest beside an engine."""
    return os.path.splitext(engine)[0] + ".json"


def build_command(card: ModelCard, options: BackendOptions, force: bool = False) -> str:
    """The command that builds the engine of these options; ``force`` where files look good."""
    words = ["python3", "-m", "segmentation_node.engine", "--model", os.path.abspath(card.folder)]
    words += ["--precision", options.precision]
    if card.is_resized:
        words += ["--size", size_text(card.input_size)]
    if options.batch > 1:
        words += ["--batch", str(options.batch)]
    if options.engine_dir != DEFAULT_ENGINE_DIR:
        words += ["--engine-dir", engine_folder(options.engine_dir)]
    if options.device not in ("auto", "cuda"):
        words += ["--device", options.device]
    words += ["--force"] * force
    return " ".join(shlex.quote(word) for word in words)


def missing_engine(card: ModelCard, options: BackendOptions, machine: Machine) -> str:
    """Why there is nothing to run, and the command that builds it; empty when there is."""
    path = engine_path(card, options, machine)
    if os.path.isfile(path):
        return ""
    return "%s: no such engine%s; build it with: %s" % (
        path,
        _others(card, os.path.dirname(path)),
        build_command(card, options),
    )


def read_plan(card: ModelCard, options: BackendOptions, machine: Machine) -> bytes:
    """The engine's bytes, verified by its manifest. Raises BackendError on the first difference."""
    missing = missing_engine(card, options, machine)
    if missing:
        raise BackendError(missing)
    path = engine_path(card, options, machine)
    try:
        manifest = read_manifest(manifest_path(path))
        _check_manifest(manifest, card, options, machine)
        plan = Path(path).read_bytes()
        _check_plan(manifest, plan)
    except (BackendError, OSError) as error:
        raise BackendError(
            "%s: %s; rebuild it with: %s" % (path, error, build_command(card, options))
        ) from error
    return plan


def artifact_of(card: ModelCard, kind: str, batch: int) -> ArtifactInfo:
    """The card's artifact of this kind, as ``ModelCard.artifact`` chooses it.

    Raises BackendError that says how to add it.
    """
    if card.offers(kind):
        return card.artifact(kind, batch)
    raise BackendError(
        "card %s has no artifact of kind %s, which this TensorRT needs; it has %s; add it on a "
        "machine with PyTorch: %s"
        % (
            card.name,
            kind,
            [artifact.kind for artifact in card.artifacts],
            card.command_to_add(kind),
        )
    )


def check_tensors(tensors: Sequence[TensorInfo], card: ModelCard) -> Tuple[int, int, int, int]:
    """The engine's input shape (N, H, W, 3), after inputs and outputs were held against the card.

    Image and maps are uint8, or float32 and int32. The batch is the engine's own. Raises
    BackendError.
    """
    inputs = [tensor for tensor in tensors if tensor.is_input]
    batch = inputs[0].shape[0] if inputs and inputs[0].shape else 1
    shape = (batch, card.input.height, card.input.width, 3)
    expected = [
        sorted(
            [TensorInfo("image", True, shape, image)]
            + [TensorInfo(name, False, shape[:3], maps) for name in card.outputs]
        )
        for image, maps in (("uint8", "uint8"), ("float32", "int32"))
    ]
    if sorted(tensors) not in expected:
        raise BackendError(
            "inputs and outputs are %s, but the model card expects %s"
            % (_brief(sorted(tensors)), " or ".join(_brief(choice) for choice in expected))
        )
    return shape


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
    try:
        manifest = build(Manifest, values, "it")
    except ValueError as error:
        raise BackendError("its manifest %s: %s" % (os.path.basename(path), error)) from error
    if manifest.format != FORMAT:
        raise BackendError(
            "its manifest %s has format %d, expected %d"
            % (os.path.basename(path), manifest.format, FORMAT)
        )
    return manifest


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
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise BackendError(
            "its manifest has tensors %s; expected name, direction, shape and dtype of each"
            % shown(manifest.tensors)
        ) from error


def write_engine(path: str, plan: bytes, manifest: Manifest) -> None:
    """Put engine and manifest in place, each whole or not at all. Raises OutputError.

    Whoever reads in between meets an engine whose hash is not the old manifest's.
    """
    text = json.dumps(asdict(manifest), indent=2) + "\n"
    write_whole(path, plan)
    write_whole(manifest_path(path), text)


def sha256(content: bytes) -> str:
    """Of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _check_manifest(
    manifest: Manifest, card: ModelCard, options: BackendOptions, machine: Machine
) -> None:
    onnx_sha256 = artifact_of(card, manifest.onnx_kind, options.batch).sha256
    for what, found, expected in (
        ("model", manifest.model, card.name),
        ("network", manifest.network, card.network.name),
        ("sha256 of the ONNX file", manifest.onnx_sha256, onnx_sha256),
        ("precision", manifest.precision, options.precision),
        ("TensorRT", manifest.tensorrt, machine.tensorrt),
        ("compute capability", manifest.compute_capability, machine.compute_capability),
        # By NVIDIA an engine is for the model of GPU that it was built on; TensorRT only warns.
        ("GPU", manifest.gpu, machine.gpu),
    ):
        if found != expected:
            raise BackendError("it was built for %s %s, expected %s" % (what, found, expected))
    check_tensors(recorded_tensors(manifest), card)


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


def _check_plan(manifest: Manifest, plan: bytes) -> None:
    if len(plan) != manifest.engine_bytes:
        raise BackendError(
            "it has %d bytes, expected %d: truncated or replaced"
            % (len(plan), manifest.engine_bytes)
        )
    found = sha256(plan)
    if found != manifest.engine_sha256:
        raise BackendError("its sha256 is %s, expected %s" % (found, manifest.engine_sha256))


def _others(card: ModelCard, folder: str) -> str:
    """What the folder has for this model instead."""
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        try:
            manifest = read_manifest(os.path.join(folder, name)) if name.endswith(".json") else None
        except (BackendError, OSError):
            continue
        if manifest is not None and manifest.model == card.name:
            found.append(
                "%s for TensorRT %s and compute capability %s"
                % (manifest.precision, manifest.tensorrt, manifest.compute_capability)
            )
    return " (there is %s)" % "; ".join(found) if found else ""


def _brief(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join("%s %s %s" % (item.name, item.dtype, item.shape) for item in tensors)
