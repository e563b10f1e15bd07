"""What a figure means nothing without: model, machine, versions, command and date."""

import datetime
import os
import platform
import shlex
import sys
from typing import Any, Dict

from segmentation_node import __version__
from segmentation_node.model_card import ModelCard
from segmentation_node.pipeline import Segmenter


def run_facts(segmenter: Segmenter) -> Dict[str, Any]:
    """Facts of a run through the pipeline in this process."""
    card, backend = segmenter.card, segmenter.backend
    facts: Dict[str, Any] = {
        "model": card.name,
        "model_sha256": _sha256(card, backend.kind_for(backend.options.precision)),
        "label_set": card.label_set,
        "input_size": "%dx%d" % (card.input.width, card.input.height),
        "backend": backend.name,
        "device": backend.device,
        "precision": backend.options.precision,
        "num_threads": backend.options.num_threads,
    }
    facts.update(environment_facts())
    return facts


def _sha256(card: ModelCard, kind: str) -> str:
    return next(artifact.sha256 for artifact in card.artifacts if artifact.kind == kind)


def environment_facts() -> Dict[str, Any]:
    """Facts of this machine, this moment and this command."""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    return {
        "date": now.isoformat(),
        "command": _command(),
        "processor": _processor(),
        "logical_cores": os.cpu_count(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(),
        "versions": _versions(),
    }


def _command() -> str:
    program, arguments = sys.argv[0], sys.argv[1:]
    if os.path.basename(program) == "__main__.py":
        program = "python -m segmentation_node.evaluation"
    return " ".join([program] + [shlex.quote(argument) for argument in arguments])


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> Dict[str, str]:
    """Of this package, and of those libraries that this process has loaded."""
    versions = {"segmentation_node": __version__, "python": platform.python_version()}
    for name in ("numpy", "cv2", "onnxruntime", "openvino", "torch", "tensorrt"):
        version = getattr(sys.modules.get(name), "__version__", None)
        if version:
            versions[name] = str(version)
    return versions
