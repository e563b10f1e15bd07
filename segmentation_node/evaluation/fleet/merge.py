"""The reports of a fleet as one: counts summed, percentiles over all frames, a row a drive."""

import json
from array import array
from typing import Any, Container, Dict, List, Optional, Tuple

import numpy as np

from segmentation_node.errors import FleetError, reason, shown
from segmentation_node.evaluation.fleet.storage import Folder
from segmentation_node.evaluation.run.accuracy import Accuracy
from segmentation_node.evaluation.run.consistency import consistency_figures
from segmentation_node.evaluation.run.timeline import percentiles
from segmentation_node.labels import LabelSet, parse_label_set

FAILED = ".failed.json"
COUNTS = ("frame_pairs", "pixels", "changed_pixels")
CLASS_COUNTS = ("class_pixels", "class_changed_pixels")


def merge(folder: Folder, only: Optional[Container[str]] = None) -> Dict[str, Any]:
    """The merged report of a folder of reports, or of those called so, read one after the other.

    A report of a drive that failed since is left out, and named beside why it failed. Raises
    FleetError where there is none, where one cannot be read, and where they are of several
    models, options or label sets, or twice of one drive.
    """
    merged = _Merged()
    names = [n for n in folder.names() if n.endswith(".json") and (only is None or n in only)]
    for name in sorted(names, key=lambda name: not name.endswith(FAILED)):
        try:
            content = json.loads(folder.read(name))
            if name.endswith(FAILED):
                merged.fail(content["drive"], content["error"])
            else:
                merged.add(name, content)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise FleetError(
                "%s/%s: no report of a drive (%s): move it away"
                % (folder.path, name, reason(error))
            ) from error
        except FleetError as error:
            raise FleetError("%s/%s: %s" % (folder.path, name, error)) from error
    if not merged.rows and not merged.failures:
        raise FleetError(
            "%s: no report of a drive in it; evaluation fleet makes them" % folder.path
        )
    return merged.as_json()


def reports_in(folder: Folder) -> List[str]:
    """The files' names of a folder's reports, without those of failures."""
    return [n for n in folder.names() if n.endswith(".json") and not n.endswith(FAILED)]


class _Merged:
    """Sums of reports. What grows is a row a drive, and 8 bytes a frame and stage."""

    def __init__(self) -> None:
        self.rows: List[Dict[str, Any]] = []
        self.failures: Dict[str, Dict[str, Any]] = {}
        self._not_read: Dict[str, None] = {}
        self._computed_by: Dict[str, int] = {}
        self._report_of: Dict[str, Tuple[str, str]] = {}
        self._settings: Optional[str] = None
        self._model: Any = None
        self._predicted: Any = None
        self._truth: Any = None
        self._accuracy: Optional[Accuracy] = None
        self._counts = dict.fromkeys(COUNTS, 0)
        self._class_counts: Dict[str, Dict[str, int]] = {key: {} for key in CLASS_COUNTS}
        self._stages_ms: Dict[str, array] = {}
        self._frames = self._skipped = 0

    def fail(self, drive: str, error: str) -> None:
        """A drive that failed: it has no figures, though it may have had some before."""
        self.failures[drive] = {"drive": drive, "error": error, "left_out": []}

    def add(self, name: str, content: Dict[str, Any]) -> None:
        """Count the report in the file of this name."""
        if content["drive"] in self.failures:
            self.failures[content["drive"]]["left_out"].append(name)
            return
        report = content["report"]
        self._check(name, content)
        self._add_accuracy(content)
        self._add_consistency(report["temporal_consistency"])
        for frame in report["per_frame"]:
            for key, value in frame.items():
                if key.endswith("_ms") and key[:-3] in report["stages_ms"] and value is not None:
                    self._stages_ms.setdefault(key[:-3], array("d")).append(value)
        self._frames += report["frames"]
        self._skipped += len(report["skipped"])
        source = report["source"]
        self._not_read.update(dict.fromkeys(source.get("left_out", [])))
        taken = "%s %s" % (source["backend"], source["precision"])
        self._computed_by[taken] = self._computed_by.get(taken, 0) + 1
        self.rows.append(dict(_row(content["drive"], report), report=name))

    def _check(self, name: str, content: Dict[str, Any]) -> None:
        """Whether it may be summed with the others."""
        if self._settings is None:
            self._settings, self._predicted = content["settings"], content["predicted"]
            self._model = content["report"]["model"]
        if content["settings"] != self._settings:
            raise FleetError(
                "another model, other options or another version than the reports before it: "
                "give each its own --output"
            )
        mine = content["report"]["source"].get("date", ""), name
        other = self._report_of.setdefault(content["drive"], mine)
        if other != mine:
            raise FleetError(
                "a second report of %s beside %s: it changed between two runs; remove the older, %s"
                % (content["drive"], other[1], min(mine, other)[1])
            )

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
            failed=[self.failures[drive] for drive in sorted(self.failures)],
            not_read=list(self._not_read),
            computed_by=self._computed_by,
        )
        return accuracy

    def _in_order(self, key: str) -> Dict[str, int]:
        """Counts by class in the order of the network's classes."""
        names = [item["name"] for item in self._predicted["classes"]] if self._predicted else []
        counts = self._class_counts[key]
        return {name: counts[name] for name in names + ["unlabelled"] if name in counts}


def _row(drive: str, report: Dict[str, Any]) -> Dict[str, Any]:
    return {
        "drive": drive,
        "mean_iou": report["mean_iou"],
        "class_iou": report["class_iou"],
        "changed_share": report["temporal_consistency"]["changed_share"],
        "frames": report["frames"],
        "frames_skipped": len(report["skipped"]),
        "problems": report["source"].get("bag_problems", []),
    }


def _worst_first(row: Dict[str, Any]) -> Tuple[float, str]:
    return (2.0 if row["mean_iou"] is None else row["mean_iou"], row["drive"])


def _labels(content: Dict[str, Any]) -> LabelSet:
    return parse_label_set(content, "label set of a report").in_train_ids()


def compare(folder: Folder, merged: Dict[str, Any], other_folder: Folder) -> Dict[str, Any]:
    """What a merged folder gained over another: in all and by drive, the greatest loss first.

    Differences are of IoU, 0-1, positive where it got better; classes without a figure in both
    are left out, as are drives, which are then named as ``only_here`` and ``only_there``: ``all``
    is over the drives in both. Raises FleetError as ``merge`` does, and where the two were scored
    on different classes.
    """
    other = merge(other_folder)
    _require_same_classes(merged, other)
    here = {row["drive"]: row for row in merged["drives"]}
    there = {row["drive"]: row for row in other["drives"]}
    common = sorted(set(here) & set(there))
    both = [_difference(here[name], there[name]) for name in common]
    both.sort(key=lambda row: 0.0 if row["mean_iou"] is None else row["mean_iou"])
    totals = _over(common, folder, merged), _over(common, other_folder, other)
    return {
        "model": other["model"],
        "all": dict(_difference(*totals), drives=len(common)),
        "drives": both,
        "only_here": sorted(set(here) - set(there)),
        "only_there": sorted(set(there) - set(here)),
    }


def _require_same_classes(merged: Dict[str, Any], other: Dict[str, Any]) -> None:
    if "level" not in merged or "level" not in other:
        return  # what has no ground truth has no figures that could be taken for the other's
    here, there = set(merged["class_iou"]), set(other["class_iou"])
    levels = merged["level"], other["level"]
    if levels[0] != levels[1] or here != there:
        raise FleetError(
            "--against: IoU is by %s here and by %s there; only here: %s; only there: %s; score "
            "both with the same --grouping"
            % (levels + (shown(sorted(here - there)), shown(sorted(there - here))))
        )


def _over(drives: List[str], folder: Folder, merged: Dict[str, Any]) -> Dict[str, Any]:
    """The merged report of these drives of a folder."""
    if len(drives) == len(merged["drives"]):
        return merged
    if not drives:
        return {"mean_iou": None, "class_iou": {}}
    report_of = {row["drive"]: row["report"] for row in merged["drives"]}
    return merge(folder, {report_of[drive] for drive in drives})


def _difference(here: Dict[str, Any], there: Dict[str, Any]) -> Dict[str, Any]:
    pairs = {name: (iou, there["class_iou"].get(name)) for name, iou in here["class_iou"].items()}
    found: Dict[str, Any] = {"drive": here["drive"]} if "drive" in here else {}
    found["mean_iou"] = _minus(here["mean_iou"], there["mean_iou"])
    found["class_iou"] = {name: _minus(*pair) for name, pair in pairs.items() if None not in pair}
    return found


def _minus(one: Optional[float], other: Optional[float]) -> Optional[float]:
    return None if one is None or other is None else one - other
