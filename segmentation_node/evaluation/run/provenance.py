"""What a figure means nothing without: model, machine, versions, command and date."""

import datetime
import os
import platform
import shlex
import sys
from typing import Any, Dict

from segmentation_node import __version__
from segmentation_node.backends.cpu import cpu_info
from segmentation_node.pipeline import Segmenter

BOARD = "/proc/device-tree/model"


def run_facts(segmenter: Segmenter, jobs: int = 1) -> Dict[str, Any]:
    """Facts of a run through the pipeline in this process, ``jobs`` images at a time."""
    card, backend = segmenter.card, segmenter.backend
    facts: Dict[str, Any] = {
        "model": card.name,
        "model_sha256": card.artifact(backend.kind_for(backend.options.precision)).sha256,
        "label_set": card.label_set,
        "input_size": "%dx%d" % (card.input.width, card.input.height),
        "backend": backend.name,
        "device": backend.device,
        "precision": backend.options.precision,
        "num_threads": backend.options.num_threads,
    }
    if jobs > 1:
        facts["jobs"] = jobs
    if card.boxes is not None:
        lacking = backend.lacks_boxes_at_its_precision()
        facts["boxes"] = "connected areas: " + lacking if lacking else "box head"
    facts.update(environment_facts())
    return facts


def environment_facts() -> Dict[str, Any]:
    """Facts of this machine, this moment and this command."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    facts: Dict[str, Any] = {"date": now.isoformat(), "command": _command()}
    facts.update(machine_facts())
    facts["versions"] = _versions()
    return facts


def machine_facts() -> Dict[str, Any]:
    """Facts of this machine and its load at this moment."""
    return {
        "processor": cpu_info().get("model name") or _board() or platform.machine(),
        "logical_cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
    }


def _command() -> str:
    program, arguments = sys.argv[0], sys.argv[1:]
    if os.path.basename(program) == "__main__.py":
        program = "python -m segmentation_node.evaluation"
    return " ".join([program] + [shlex.quote(argument) for argument in arguments])


def _board() -> str:
    """As on a Jetson; empty where there is no device tree."""
    try:
        with open(BOARD) as text:
            return text.read().strip().rstrip("\0")
    except OSError:
        return ""


def _versions() -> Dict[str, str]:
    """Of this package, and of those libraries that this process has loaded."""
    versions = {"segmentation_node": __version__, "python": platform.python_version()}
    for name in ("numpy", "cv2", "onnxruntime", "openvino", "torch", "tensorrt"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version:
            versions[name] = str(version)
    return versions
