"""A data set read whole, once: what is in it, and what training or evaluation would stumble on."""

import hashlib
from collections import Counter
from typing import Any, Dict, Iterable, List, Optional, Tuple, Union

import numpy as np

from segmentation_node.evaluation.datasets import Dataset
from segmentation_node.evaluation.frame import Frame, Problem
from segmentation_node.evaluation.run.accuracy import defined
from segmentation_node.evaluation.run.confusion import ratio
from segmentation_node.evaluation.run.true_boxes import THING
from segmentation_node.labels import LabelSet, describe

LEAST_SHARE = 1e-4
"""A class on fewer of a split's labelled pixels is near-empty: it is hardly learned or measured."""


class SplitContent:
    """What the frames of one split hold.

    ``pixels`` and ``pictures``, int64 (classes,), count where a class is, of a data set without
    labels by its boxes; ``broken`` are the samples that cannot be read; ``by_digest`` names the
    pictures by their decoded pixels.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.split = dataset.split
        self.labels: LabelSet = dataset.label_set
        self.has_labels = dataset.has_labels
        self.notes = list(dataset.notes)
        self.occurring = dataset.occurring_classes
        self.turned = dataset.turned_pictures()
        self.sizes: Counter = Counter()
        self.pixels = np.zeros(len(self.labels), np.int64)
        self.pictures = np.zeros(len(self.labels), np.int64)
        self.unlabelled_pixels = 0
        self.broken: List[Problem] = []
        self.by_digest: Dict[bytes, List[str]] = {}

    def add(self, frame: Union[Frame, Problem]) -> None:
        """Count a sample, or note why it cannot be read."""
        if isinstance(frame, Problem):
            self.broken.append(frame)
            return
        height, width = frame.image_hwc.shape[:2]
        self.sizes["%dx%d" % (width, height)] += 1
        if frame.truth_hw is not None:
            counts = np.bincount(frame.truth_hw.ravel(), minlength=256)
            found = counts[: len(self.labels)]
            self.pixels += found
            self.pictures += found > 0
            self.unlabelled_pixels += int(counts.sum() - found.sum())
        elif frame.true_boxes is not None:
            is_thing = frame.true_boxes.kinds == THING
            self.pictures[np.unique(frame.true_boxes.class_ids[is_thing])] += 1
        self.by_digest.setdefault(_digest(frame.image_hwc), []).append(frame.name)

    @property
    def frames(self) -> int:
        """Samples that can be read."""
        return sum(self.sizes.values())

    def labelled_share(self) -> Optional[float]:
        """Of all pixels; None where there are none."""
        labelled = int(self.pixels.sum())
        total = labelled + self.unlabelled_pixels
        return labelled / total if total else None

    def shares(self) -> np.ndarray:
        """Of the labelled pixels, by class: float64 (classes,), NaN where there are none."""
        return ratio(self.pixels, self.pixels.sum())

    def near_empty(self) -> List[str]:
        """Names of the classes that there is next to nothing of, though the data set has them."""
        shares = self.shares()
        return [self.labels.names[i] for i in self.occurring if shares[i] < LEAST_SHARE]

    def as_json(self) -> Dict[str, Any]:
        """All figures."""
        shares = self.shares()
        classes = {
            name: {
                "pixels": int(self.pixels[index]),
                "share": defined(shares[index]),
                "pictures": int(self.pictures[index]),
            }
            for index, name in enumerate(self.labels.names)
        }
        return {
            "pictures": self.frames,
            "sizes": dict(self.sizes.most_common()),
            "unlabelled_pixels": self.unlabelled_pixels,
            "classes": classes,
            "near_empty": self.near_empty(),
            "broken": [vars(problem) for problem in self.broken],
            "left_out": self.notes,
        }


class DataCheck:
    """The splits of a data set, and what is wrong with them together.

    ``unopened`` says of a split why there is nothing to read.
    """

    def __init__(self, name: str, root: str) -> None:
        self.name = name
        self.root = root
        self.splits: List[SplitContent] = []
        self.unopened: Dict[str, str] = {}

    def read(self, dataset: Dataset, frames: Iterable[Union[Frame, Problem]]) -> None:
        """Count every frame of a split."""
        content = SplitContent(dataset)
        for frame in frames:
            content.add(frame)
        self.splits.append(content)

    def shared_pictures(self) -> List[Tuple[str, ...]]:
        """Pictures whose pixels are in several splits, as ``split: name``, once each."""
        return self._same(across=True)

    def problems(self) -> List[str]:
        """What training or evaluation would stumble on, one line each."""
        lines = list(self.unopened.values())
        for content in self.splits:
            lines += [problem.reason for problem in content.broken]
            if content.frames and content.has_labels and not content.pixels.any():
                lines.append("%s: no pixel of it is labelled" % content.split)
        lines += ["the same picture: " + ", ".join(names) for names in self.shared_pictures()]
        return lines

    def warnings(self) -> List[str]:
        """What a user should know of, and may mean so; one line each."""
        lines = []
        for content in self.splits:
            lines += content.notes
            if content.turned:
                lines.append(
                    "%s: an orientation in %d pictures, as %s: pixels count as they lie in the "
                    "file; labels drawn on a turned picture do not fit them"
                    % (content.split, len(content.turned), content.turned[0])
                )
            if content.near_empty():
                lines.append(
                    "%s: on less than %g %% of the labelled pixels: %s"
                    % (content.split, LEAST_SHARE * 100, ", ".join(content.near_empty()))
                )
        return lines + ["twice: " + ", ".join(names) for names in self._same(across=False)]

    def as_json(self) -> Dict[str, Any]:
        """All figures."""
        labels = self.splits[0].labels if self.splits else None
        return {
            "dataset": self.name,
            "root": self.root,
            "label_set": describe(labels) if labels else None,
            "splits": {content.split: content.as_json() for content in self.splits},
            "unopened": self.unopened,
            "shared_pictures": [list(names) for names in self.shared_pictures()],
            "problems": self.problems(),
            "warnings": self.warnings(),
        }

    def _same(self, across: bool) -> List[Tuple[str, ...]]:
        places: Dict[bytes, List[Tuple[str, str]]] = {}
        for content in self.splits:
            for digest, names in content.by_digest.items():
                places.setdefault(digest, []).extend((content.split, name) for name in names)
        return [
            tuple("%s: %s" % place for place in found)
            for found in places.values()
            if len(found) > 1 and (len({split for split, _ in found}) > 1) == across
        ]


def _digest(image_hwc: np.ndarray) -> bytes:
    digest = hashlib.blake2b(repr(image_hwc.shape).encode(), digest_size=16)
    digest.update(image_hwc.tobytes())
    return digest.digest()
