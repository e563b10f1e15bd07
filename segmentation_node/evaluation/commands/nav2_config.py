"""``nav2-config``: parameters of Nav2's semantic segmentation layer for a model's classes."""

import argparse
from typing import Any, Dict, List, Sequence

import yaml

from segmentation_node.errors import LabelsError
from segmentation_node.evaluation.commands.options import writable
from segmentation_node.files import check_file, write_whole
from segmentation_node.labels import LabelSet, read_grouping
from segmentation_node.model_card import ModelCard, open_model

MARK = "semantic_segmentation_layer:"
COSTMAPS = ("local_costmap", "global_costmap")
LETHAL = 254
# Type -> what its classes cost: at one sighting, and once enough were seen, surely enough.
COSTS: Dict[str, Dict[str, Any]] = {
    "traversable": {"base_cost": 0, "max_cost": 0, "samples_to_max_cost": 0},
    "obstacle": {"base_cost": 100, "max_cost": LETHAL, "samples_to_max_cost": 3},
    "danger": {"base_cost": LETHAL, "max_cost": LETHAL, "samples_to_max_cost": 0},
    "sky": {"base_cost": 0, "max_cost": 0, "samples_to_max_cost": 0},
}
MARK_CONFIDENCE = {"obstacle": 128}  # of 255, the mean of the samples
TYPE_OF_CATEGORY = {"flat": "traversable", "human": "danger", "vehicle": "danger", "sky": "sky"}
HEADER = """\
# Made by `evaluation nav2-config` for the model %s, label set %s: what its classes
# cost in Nav2's costmap. Costs are where to start from; docs/nav2.md says what each key does.
"""


def add_parser(commands: Any) -> None:
    """Add the command's own options."""
    parser = commands.add_parser(
        "nav2-config",
        help="write parameters of Nav2's semantic segmentation layer for a model's classes",
        description="Write parameters of Nav2's semantic segmentation layer for a model's classes.",
        examples="%(prog)s --model fast_elu_squeezenet_camvid --output layer.yaml",
    )
    parser.set_defaults(run=run)
    parser.add_argument("--model", required=True, help="a model folder, or a shipped model's name")
    parser.add_argument(
        "--output", required=True, type=writable, metavar="FILE", help="YAML file to write"
    )
    parser.add_argument(
        "--grouping", metavar="FILE", help="the node's parameter grouping, if it has one"
    )
    parser.add_argument(
        "--traversable",
        nargs="+",
        metavar="CLASS",
        help="classes that the robot may drive on; default: those of the category flat",
    )
    parser.add_argument(
        "--costmap",
        choices=COSTMAPS,
        default=COSTMAPS[0],
        help="whose layer it is (default: %(default)s)",
    )
    parser.add_argument(
        "--prefix",
        default="/segmentation",
        help="of the node's topics, as prefix of nav2.launch.py, with its namespace in front",
    )
    parser.add_argument(
        "--cloud",
        default="/camera/depth/points",
        metavar="TOPIC",
        help="organised cloud with a point for each pixel of the image",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the file; gives the exit code."""
    check_file(arguments.output, "a costmap's parameters", MARK)
    card = open_model(arguments.model)
    labels = card.labels
    if arguments.grouping:
        labels, _ = read_grouping(arguments.grouping).fold(labels)
    types = types_of(labels, arguments.traversable or ())
    layer = layer_parameters(card, types, arguments.prefix.rstrip("/"), arguments.cloud)
    name = arguments.costmap
    content = {name: {name: {"ros__parameters": {MARK.rstrip(":"): layer}}}}
    text = HEADER % (card.name, labels.name)
    write_whole(arguments.output, text + yaml.safe_dump(content, sort_keys=False))
    print("wrote %s" % arguments.output)
    return 0


def types_of(labels: LabelSet, traversable: Sequence[str]) -> Dict[str, List[str]]:
    """The classes' names by type: the layer takes each class for exactly one, and misses none.

    Raises LabelsError where a name is none, or nothing says what the robot may drive on.
    """
    unknown = [name for name in traversable if name not in labels.names]
    if unknown:
        raise LabelsError(
            "--traversable names %r; the classes are %s" % (unknown[0], ", ".join(labels.names))
        )
    if not traversable and not labels.has_categories:
        raise LabelsError(
            "the classes of %s have no categories; name what the robot may drive on with "
            "--traversable: %s" % (labels.name, ", ".join(labels.names))
        )
    types: Dict[str, List[str]] = {name: [] for name in COSTS}
    for item in labels.classes:
        kind = TYPE_OF_CATEGORY.get(item.category, "obstacle")
        if traversable:
            is_named = item.name in traversable
            kind = "traversable" if is_named else kind.replace("traversable", "obstacle")
        types[kind].append(item.name)
    if not types["traversable"]:
        raise LabelsError(
            "no class of %s is of the category flat; name what the robot may drive on with "
            "--traversable: %s" % (labels.name, ", ".join(labels.names))
        )
    return {name: classes for name, classes in types.items() if classes}


def layer_parameters(
    card: ModelCard, types: Dict[str, List[str]], prefix: str, cloud: str
) -> Dict[str, Any]:
    """The layer's parameters for one camera."""
    camera: Dict[str, Any] = {"segmentation_topic": prefix + "/mask"}
    if "confidence" in card.outputs:
        camera["confidence_topic"] = prefix + "/confidence"
    camera.update(
        labels_topic=prefix + "/label_info",
        pointcloud_topic=cloud,
        max_obstacle_distance=5.0,
        min_obstacle_distance=0.3,
        tile_map_decay_time=5.0,
        use_cost_selection=True,
        class_types=list(types),
    )
    for name, classes in types.items():
        confidence = MARK_CONFIDENCE.get(name, 0) if "confidence" in card.outputs else 0
        camera[name] = dict(
            {"classes": classes},
            mark_confidence=confidence,
            dominant_priority=name == "danger",
            **COSTS[name],
        )
    return {
        "plugin": "semantic_segmentation_layer::SemanticSegmentationLayer",
        "enabled": True,
        # The node copies the image's stamp, as a camera's driver does for its cloud.
        "use_approximate_time_sync": True,
        "observation_sources": "camera",
        "camera": camera,
    }
