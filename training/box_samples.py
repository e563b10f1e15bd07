"""What a box head is trained on: an encoder's view of images, proposals, and the true boxes."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from segmentation_node.boxes import area, intersection_matrix, iou_matrix
from segmentation_node.evaluation.datasets import DATASETS, Dataset, open_dataset
from segmentation_node.evaluation.run.instances import CLASS_SHIFT
from segmentation_node.evaluation.run.true_boxes import AREA, THING, boxes_of_instances
from segmentation_node.fast_rcnn import deltas_between
from segmentation_node.images import Placement, place, to_network, view
from segmentation_node.labels import UNLABELLED
from segmentation_node.model_card import ModelCard
from segmentation_node.networks.deploy import DeployGraph
from segmentation_node.proposals import propose
from training.errors import TrainingError

LEAST_PIXELS = 60
LEAST_HEIGHT = 10
"""Of the visible part, in pixels of the network's input: smaller things count neither way."""
ROIS = 96
"""Regions of an image in a step, at most half of them things."""
LEAST_THING_IOU = 0.5
MOST_IGNORED_IOU = 0.3
MOST_IN_AREA = 0.5
"""Share of a region in an area of many, from which on it may be of one of them."""
JITTERED = 4
JITTER = 0.08
"""Beside the proposals, so many boxes around every thing, each side moved by that share."""
SHAPE_QUANTILES = (0.15, 0.5, 0.85)


@dataclass
class Sample:
    """One image: stages of the encoder by stride, float16; what is in it, in network pixels.

    ``boxes_xyxy`` float32 (T, 4), their ``labels`` from 1 on, whether they are ``ignored``, and of
    those which are ``areas`` of many.
    """

    stages: dict[int, torch.Tensor]
    class_map_hw: np.ndarray
    class_ids: Sequence[int]
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray
    areas: np.ndarray
    proposals_xyxy: np.ndarray = field(default_factory=lambda: np.zeros((0, 4), np.float32))

    def propose(self, shapes: Collection[Sequence[float]], count: int) -> None:
        """Fill in the proposals."""
        self.proposals_xyxy = propose(self.class_map_hw, self.class_ids, list(shapes), count)


@dataclass
class Targets:
    """Regions of one image in a step: boxes, labels (0: background), and deltas of the things."""

    rois_xyxy: np.ndarray
    labels: np.ndarray
    deltas: np.ndarray


def open_numbered(name: str, root: str, split: str) -> Dataset:
    """A split with its instances. Raises TrainingError where the data set does not number them."""
    dataset = open_dataset(name, root, split, with_instances=True)
    if not dataset.with_instances:
        numbered = [known for known, found in DATASETS.items() if found.instance_classes]
        raise TrainingError(
            f"data set {name} numbers no instances, so it has no boxes; choose one of "
            f"{', '.join(sorted(numbered))}"
        )
    return dataset


def class_ids_of(names: Sequence[str], dataset: Dataset, card: ModelCard) -> list[int]:
    """Train ids of these classes. Raises TrainingError on one that the data cannot teach."""
    if dataset.label_set.names != card.labels.names:
        raise TrainingError(
            f"the data set has label set {dataset.label_set.name}, model {card.name} has "
            f"{card.label_set}; they have to be the same"
        )
    for name in names:
        if name not in dataset.instance_classes or names.count(name) > 1:
            raise TrainingError(
                f"class {name!r}: expected names out of {', '.join(dataset.instance_classes)}, "
                "each once; the data set numbers instances of these"
            )
    return [card.labels.names.index(name) for name in names]


def read_samples(
    graph: DeployGraph,
    card: ModelCard,
    dataset: Dataset,
    indices: Sequence[int],
    class_ids: Sequence[int],
    strides: Sequence[int],
) -> Iterator[Sample]:
    """These frames of a data set through the encoder, without proposals.

    Of its stages those of these ``strides`` are kept. Raises DatasetError.
    """
    encoder = DeployGraph(
        graph.normalise,
        graph.network,
        with_confidence=False,
        trained_classes=graph.trained_classes,
        box_head=StagesThemselves(),
    )
    for index in indices:
        frame = dataset[index]
        assert frame.instances_hw is not None and frame.truth_hw is not None
        placement = place(card.input.resize, frame.image_hwc.shape[:2], card.input_size)
        seen_hwc = np.zeros((*card.input_size, 3), np.uint8)
        to_network(frame.image_hwc, placement, seen_hwc)
        with torch.inference_mode():
            class_map, stages = encoder(torch.from_numpy(seen_hwc[None]))
        yield Sample(
            {stride: stages[stride].half() for stride in strides},
            class_map[0].numpy(),
            class_ids,
            *_targets_in(
                seen_by_network(frame.instances_hw, placement, 0),
                seen_by_network(frame.truth_hw, placement, UNLABELLED),
                class_ids,
            ),
        )


class StagesThemselves(nn.Module):
    """In place of a box head: the graph gives the stages as they are."""

    def join(self, stages: dict[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        return stages


def seen_by_network(map_hw: np.ndarray, placement: Placement, outside: int) -> np.ndarray:
    """A map of an image (H, W) as the network sees the image; at each pixel the nearest."""
    seen = np.full(placement.network_size, outside, map_hw.dtype)
    source = view(map_hw, placement.image_box)
    target = view(seen, placement.network_box)
    rows, columns = (
        ((np.arange(length) + 0.5) * whole / length).astype(int)
        for length, whole in zip(target.shape, source.shape, strict=True)
    )
    target[:] = source[rows[:, None], columns]
    return seen


def _targets_in(
    instances_hw: np.ndarray, truth_hw: np.ndarray, class_ids: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, labels, which are ignored and which are areas, as a sample has them."""
    true = boxes_of_instances(instances_hw, truth_hw, class_ids)
    ids, pixels = np.unique(instances_hw, return_counts=True)
    pixels = pixels[(ids > 0) & np.isin(ids >> CLASS_SHIFT, class_ids)]
    ignored = true.kinds != THING
    ignored[: len(pixels)] |= pixels < LEAST_PIXELS
    ignored |= true.boxes_xyxy[:, 3] - true.boxes_xyxy[:, 1] < LEAST_HEIGHT
    places = {class_id: label for label, class_id in enumerate(class_ids, 1)}
    labels = np.array([places[class_id] for class_id in true.class_ids.tolist()], np.int64)
    return true.boxes_xyxy, labels, ignored, true.kinds == AREA


def shapes_of(samples: Sequence[Sample], names: Sequence[str]) -> dict[str, list[float]]:
    """Usual widths of one thing of each class, as multiples of its height: quantiles.

    Raises TrainingError on a class that the images hold nothing of.
    """
    shapes = {}
    for label, name in enumerate(names, 1):
        found = [
            sample.boxes_xyxy[(sample.labels == label) & ~sample.ignored] for sample in samples
        ]
        boxes = np.concatenate(found)
        if not len(boxes):
            raise TrainingError(f"no {name} in {len(samples)} images; take more, or leave it out")
        ratios = (boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1])
        shapes[name] = [round(float(ratio), 2) for ratio in np.quantile(ratios, SHAPE_QUANTILES)]
    return shapes


def targets_of(sample: Sample, rng: np.random.Generator) -> Targets:
    """Regions for one step, drawn from the proposals and from boxes around the things."""
    rois = np.concatenate((sample.proposals_xyxy, _jittered(sample, rng)))
    labels = np.zeros(len(rois), np.int64)
    deltas = np.zeros((len(rois), 4), np.float32)
    counts = np.ones(len(rois), bool)
    if len(sample.boxes_xyxy):
        overlaps = iou_matrix(rois, sample.boxes_xyxy)
        nearest = overlaps.argmax(axis=1)
        overlap = overlaps.max(axis=1)
        labels = np.where(overlap >= LEAST_THING_IOU, sample.labels[nearest], 0)
        counts = ~(sample.ignored[nearest] & (overlap >= MOST_IGNORED_IOU))
        counts &= (labels > 0) | ~_in_areas(rois, sample.boxes_xyxy[sample.areas])
        deltas = deltas_between(rois, sample.boxes_xyxy[nearest])
    things = rng.permutation(np.flatnonzero(counts & (labels > 0)))[: ROIS // 2]
    rest = rng.permutation(np.flatnonzero(counts & (labels == 0)))[: ROIS - len(things)]
    chosen = np.concatenate((things, rest))
    return Targets(rois[chosen], labels[chosen], deltas[chosen])


def _in_areas(rois_xyxy: np.ndarray, areas_xyxy: np.ndarray) -> np.ndarray:
    """Which regions lie in an area: bool (R,). By their own size: IoU with a large one is small."""
    most_shared = intersection_matrix(rois_xyxy, areas_xyxy).max(axis=1, initial=0.0)
    in_area: np.ndarray = most_shared >= MOST_IN_AREA * area(rois_xyxy)
    return in_area


def _jittered(sample: Sample, rng: np.random.Generator) -> np.ndarray:
    boxes = np.repeat(sample.boxes_xyxy[~sample.ignored], JITTERED, axis=0)
    sizes = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    boxes = boxes + rng.normal(0.0, JITTER, boxes.shape) * sizes
    height, width = sample.class_map_hw.shape
    boxes = np.clip(boxes, 0.0, [width, height, width, height]).astype(np.float32)
    kept: np.ndarray = boxes[(boxes[:, 2:] - boxes[:, :2]).min(axis=1) > 2.0]
    return kept
