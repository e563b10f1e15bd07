"""The weights of a run or of a model as the graph that is deployed."""

from collections.abc import Sequence
from pathlib import Path

from segmentation_node.labels import LabelSet
from segmentation_node.model_card import BOX_WEIGHTS, WEIGHTS, ModelCard
from segmentation_node.networks import build_network
from segmentation_node.networks.box_head import build_box_head
from segmentation_node.networks.deploy import DeployGraph, Normalise
from training.checkpoint import load_weights
from training.int8_weights import load_from_graph
from training.run_folder import network_of_run


def graph_of_run(run: Path, labels: LabelSet, trained_classes: Sequence[int] = ()) -> DeployGraph:
    """The deployed graph of a run's last weights, in evaluation mode on the CPU.

    Raises RecipeError, or TrainingError where the weights are of another network.
    """
    network, normalise = network_of_run(run, len(labels))
    return DeployGraph(normalise, network, True, trained_classes=trained_classes).eval()


def graph_of_card(card: ModelCard) -> DeployGraph:
    """The deployed graph of a card's weights, in evaluation mode on the CPU.

    With the card's box head, where it has one. Where it has no file of weights, those of its graph:
    raises ExportError where they cannot be read from that.
    """
    network = build_network(card.network.name, len(card.labels), card.network.options)
    if card.offers(WEIGHTS):
        load_weights(network, Path(card.artifact_path(WEIGHTS)))
    else:
        load_from_graph(network, Path(card.artifact_path("onnx")))
    head = None
    if card.boxes is not None:
        head = build_box_head(len(card.boxes.classes), card.boxes.head, network)
        load_weights(head, Path(card.artifact_path(BOX_WEIGHTS)))
    return DeployGraph(
        Normalise(card.input.mean_rgb, card.input.std_rgb),
        network,
        "confidence" in card.outputs,
        trained_classes=card.weights.trained_classes,
        temperature=card.temperature,
        box_head=head,
    ).eval()
