"""The reports of a fleet as one: counts summed, percentiles over all frames, a row a drive."""

import json
from array import array
from typing import Any, Dict, List, Optional, Set, Tuple

import numpy as np

from segmentation_node.errors import FleetError, reason
from segmentation_node.evaluation.fleet.storage import Folder
from segmentation_node.evaluation.run.accuracy import Accuracy
from segmentation_node.evaluation.run.consistency import consistency_figures
from segmentation_node.evaluation.run.timeline import percentiles
from segmentation_node.labels import LabelSet, parse_label_set

FAILED = ".failed.json"
COUNTS = ("frame_pairs", "pixels", "changed_pixels")
CLASS_COUNTS = ("class_pixels", "class_changed_pixels")


def merge(folder: Folder) -> Dict[str, Any]:
    """The merged report of a folder of reports, read one after the other.

    Raises FleetError where there is none, where one cannot be read, and where they are of several
    models, options or label sets, or twice of one drive.
    """
    merged = _Merged()
    for name in folder.names():
        if not name.endswith(".json"):
            continue
        try:
            content = json.loads(folder.read(name))
            if name.endswith(FAILED):
                merged.failed.append({"drive": content["drive"], "error": content["error"]})
            else:
                merged.add(content)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise FleetError(
                "%s/%s: no report of a drive (%s): move it away"
                % (folder.path, name, reason(error))
            ) from error
        except FleetError as error:
            raise FleetError("%s/%s: %s" % (folder.path, name, error)) from error
    if not merged.rows and not merged.failed:
        raise FleetError(
            "%s: no report of a drive in it; evaluation fleet makes them" % folder.path
        )
    return merged.as_json()


class _Merged:
    """Sums of reports. What grows is a row a drive, and 8 bytes a frame and stage."""

    def __init__(self) -> None:
        self.rows: List[Dict[str, Any]] = []
        self.failed: List[Dict[str, str]] = []
        self._names: Set[str] = set()
        self._settings: Optional[str] = None
        self._model: Any = None
        self._predicted: Any = None
        self._truth: Any = None
        self._accuracy: Optional[Accuracy] = None
        self._counts = dict.fromkeys(COUNTS, 0)
        self._class_counts: Dict[str, Dict[str, int]] = {key: {} for key in CLASS_COUNTS}
        self._stages_ms: Dict[str, array] = {}
        self._frames = self._skipped = 0

    def add(self, content: Dict[str, Any]) -> None:
        report = content["report"]
        self._check(content)
        self._add_accuracy(content)
        self._add_consistency(report["temporal_consistency"])
        for frame in report["per_frame"]:
            for key, value in frame.items():
                if key.endswith("_ms") and key[:-3] in report["stages_ms"] and value is not None:
                    self._stages_ms.setdefault(key[:-3], array("d")).append(value)
        self._frames += report["frames"]
        self._skipped += len(report["skipped"])
        self.rows.append(_row(content["drive"], report))

    def _check(self, content: Dict[str, Any]) -> None:
        """Whether it may be summed with the others."""
        if self._settings is None:
            self._settings, self._predicted = content["settings"], content["predicted"]
            self._model = content["report"]["model"]
        if content["settings"] != self._settings:
            raise FleetError(
                "another model, other options or another version than the reports before it: "
                "give each its own --output"
            )
        if content["drive"] in self._names:
            raise FleetError(
                "a second report of %s, which changed between two runs: remove the older"
                % content["drive"]
            )
        self._names.add(content["drive"])

    def _add_accuracy(self, content: Dict[str, Any]) -> None:
        report = content["report"]
        if not report["frames_with_truth"]:
            return
        if self._accuracy is None:
            self._truth = content["truth"]
            self._accuracy = Accuracy(_labels(self._predicted), _labels(self._truth))
        if content["truth"] != self._truth:
            raise FleetError(
                "its ground truth is of the label set %s, that before it of %s: merge them apart, "
                "or fold both with --grouping" % (content["truth"]["name"], self._truth["name"])
            )
        self._accuracy.matrix.counts += np.array(report["confusion_matrix"]["pixels"], np.int64)
        self._accuracy.frames += report["frames_with_truth"]
        calibration = report["calibration"]
        if calibration is not None:
            self._accuracy.calibration.add_counts(calibration["pixels"], calibration["right"])

    def _add_consistency(self, found: Dict[str, Any]) -> None:
        for key in COUNTS:
            self._counts[key] += found[key]
        for key in CLASS_COUNTS:
            for name, count in found[key].items():
                self._class_counts[key][name] = self._class_counts[key].get(name, 0) + count

    def as_json(self) -> Dict[str, Any]:
        """The figures under the keys of one run's report, and the drives, the worst first."""
        accuracy = (
            self._accuracy.as_json()
            if self._accuracy
            else {"mean_iou": None, "class_iou": {}, "calibration": None}
        )
        accuracy.update(
            model=self._model,
            frames=self._frames,
            frames_with_truth=self._accuracy.frames if self._accuracy else 0,
            frames_skipped=self._skipped,
            temporal_consistency=consistency_figures(
                self._counts["frame_pairs"],
                self._counts["pixels"],
                self._counts["changed_pixels"],
                self._in_order("class_pixels"),
                self._in_order("class_changed_pixels"),
            ),
            stages_ms={stage: percentiles(np.array(v)) for stage, v in self._stages_ms.items()},
            drives=sorted(self.rows, key=_worst_first),
            failed=sorted(self.failed, key=lambda item: item["drive"]),
        )
        return accuracy

    def _in_order(self, key: str) -> Dict[str, int]:
        """Counts by class in the order of the network's classes."""
        names = [item["name"] for item in self._predicted["classes"]] if self._predicted else []
        counts = self._class_counts[key]
        return {name: counts[name] for name in names + ["unlabelled"] if name in counts}


def _row(drive: str, report: Dict[str, Any]) -> Dict[str, Any]:
    source = report["source"]
    return {
        "drive": drive,
        "mean_iou": report["mean_iou"],
        "class_iou": report["class_iou"],
        "changed_share": report["temporal_consistency"]["changed_share"],
        "frames": report["frames"],
        "frames_skipped": len(report["skipped"]),
        "problems": source.get("bag_problems", []) + source.get("left_out", []),
    }


def _worst_first(row: Dict[str, Any]) -> Tuple[float, str]:
    return (2.0 if row["mean_iou"] is None else row["mean_iou"], row["drive"])


def _labels(content: Dict[str, Any]) -> LabelSet:
    return parse_label_set(content, "label set of a report").in_train_ids()


def compare(merged: Dict[str, Any], other: Dict[str, Any]) -> Dict[str, Any]:
    """What ``merged`` gained over ``other``: in all and by drive, the greatest loss first.

    Differences are of IoU, 0-1, positive where it got better; classes without a figure in both
    are left out, as are drives, which are then named as ``only_here`` and ``only_there``.
    """
    here = {row["drive"]: row for row in merged["drives"]}
    there = {row["drive"]: row for row in other["drives"]}
    both = [_difference(here[name], there[name]) for name in sorted(set(here) & set(there))]
    both.sort(key=lambda row: 0.0 if row["mean_iou"] is None else row["mean_iou"])
    return {
        "model": other["model"],
        "all": _difference(merged, other),
        "drives": both,
        "only_here": sorted(set(here) - set(there)),
        "only_there": sorted(set(there) - set(here)),
    }


def _difference(here: Dict[str, Any], there: Dict[str, Any]) -> Dict[str, Any]:
    pairs = {name: (iou, there["class_iou"].get(name)) for name, iou in here["class_iou"].items()}
    found: Dict[str, Any] = {"drive": here["drive"]} if "drive" in here else {}
    found["mean_iou"] = _minus(here["mean_iou"], there["mean_iou"])
    found["class_iou"] = {name: _minus(*pair) for name, pair in pairs.items() if None not in pair}
    return found


def _minus(one: Optional[float], other: Optional[float]) -> Optional[float]:
    return None if one is None or other is None else one - other
