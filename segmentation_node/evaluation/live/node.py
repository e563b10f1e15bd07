"""The node of a live evaluation: started for it, or one that runs already; and its facts."""

import argparse
import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Tuple

from segmentation_node.backends import BACKENDS
from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.run.provenance import environment_facts
from segmentation_node.labels import LABEL_SETS, LabelSet
from segmentation_node.model_card import ModelCard, find_model, read_card
from segmentation_node.models import models_folder

DEFAULT_NAME = "/segmentation_node"
READY_TIMEOUT_S = 120.0
# The node reports once a second.
REPORT_TIMEOUT_S = 3.0

Pids = Dict[str, int]


def target_name(arguments: argparse.Namespace) -> str:
    """The node's full name."""
    return "/" + (arguments.node or DEFAULT_NAME).strip("/")


def base_topic(topic: str) -> str:
    """An image topic in full without ``/compressed``."""
    topic = "/" + topic.strip("/")
    return topic[: -len("/compressed")] if topic.endswith("/compressed") else topic


@contextmanager
def node_of(
    arguments: argparse.Namespace, graph: Any, image_topic: str, compressed: bool
) -> Iterator[Tuple[Any, Pids]]:
    """What watches the node (``check()`` raises when it is gone), and the pids to watch.

    ``graph`` is any rclpy node; ``image_topic`` is without ``/compressed``.
    """
    from segmentation_node.evaluation.live.target import NodeProcess, RunningNode

    own = {"replay": os.getpid()}
    if arguments.node:
        yield RunningNode(graph, target_name(arguments)), own
        return
    card = _card(arguments)
    parameters = {
        "model": card.folder,
        "backend": arguments.backend,
        "device": arguments.device,
        "precision": arguments.precision,
        "num_threads": arguments.num_threads,
        "frame_policy": arguments.policy,
        "input.transport": "compressed" if compressed else "raw",
        "use_sim_time": arguments.sim_time,
    }
    with NodeProcess(parameters, ["image:=" + image_topic]) as process:
        yield process, dict(own, node=process.process.pid)


def predicted_labels(status: Any) -> LabelSet:
    """The label set of a node that is ready. Raises SegmentationError on one not known here."""
    name = status.label_info.label_set
    if name not in LABEL_SETS:
        raise SegmentationError(
            "the node's label set is %r; known: %s" % (name, ", ".join(sorted(LABEL_SETS)))
        )
    return LABEL_SETS[name]


def facts(arguments: argparse.Namespace, status: Any) -> Dict[str, Any]:
    """What ran: as the node says of itself, the machine, and how it was played."""
    found: Dict[str, Any] = {"model": status.label_info.model}
    values = {}
    if status.diagnostics:
        values = {item.key: item.value for item in status.diagnostics[-1].values}
    backend = values.get("backend", "")
    if not arguments.node and backend in BACKENDS:
        kind = BACKENDS[backend].kind_for(values.get("precision", ""))
        artifacts = _card(arguments).artifacts
        found["model_sha256"] = next(item.sha256 for item in artifacts if item.kind == kind)
    found["label_set"] = status.label_info.label_set
    for key in ("backend", "device", "precision", "frame_policy"):
        if key in values:
            found[key] = values[key]
    found.update(environment_facts())
    return found


def _card(arguments: argparse.Namespace) -> ModelCard:
    return read_card(find_model(arguments.model, models_folder()))
