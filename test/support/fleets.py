"""The fleet command on four small drives, and what its figures have to be."""

import json
from pathlib import Path

import numpy as np

from segmentation_node.evaluation.__main__ import main

OPTIONS = ["--labels", "camvid11", "--backend", "onnxruntime", "--num-threads", "1"]
COUNTS = ["frame_pairs", "pixels", "changed_pixels"]
NAMES = ["drive0", "drive1", "drive2", "drive3"]


def fleet(data, out, *given, drive="drive*"):
    """Run it in this process; the exit code."""
    words = [str(data / drive), "--model", str(data / "model"), "--output", str(out)]
    return main(["fleet"] + words + OPTIONS + [str(item) for item in given])


def merged(tmp_path, out, *options, code=0):
    """The merged figures."""
    path = tmp_path / "merged.json"
    assert main(["merge", str(out), "--json", str(path)] + [str(o) for o in options]) == code
    return json.loads(path.read_text())


def one_by_one(data, tmp_path, names):
    """What ``evaluation bag`` gives of each drive."""
    found = {}
    for name in names:
        path = tmp_path / (name + ".json")
        words = ["bag", str(data / name), "--model", str(data / "model"), "--json", str(path)]
        assert main(words + OPTIONS) == 0
        found[str(data / name)] = json.loads(path.read_text())
    return found


def assert_is_the_sum(result, reports):
    """Accuracy and temporal figures to the bit, from the drives' own counts."""
    pixels = sum(np.array(r["confusion_matrix"]["pixels"]) for r in reports.values())
    assert result["confusion_matrix"]["pixels"] == pixels.tolist()
    hits = np.diagonal(pixels)
    union = pixels.sum(axis=1) + pixels[:, :-1].sum(axis=0) - hits
    iou = np.array([h / u if u else np.nan for h, u in zip(hits, union)])
    assert list(result["class_iou"].values()) == [None if v != v else v for v in iou.tolist()]
    assert result["mean_iou"] == iou[~np.isnan(iou)].mean()
    assert result["global_accuracy"] == hits.sum() / pixels.sum()
    counts = {key: sum(r["temporal_consistency"][key] for r in reports.values()) for key in COUNTS}
    for key in ("pixels", "right"):
        counted = sum(np.array(r["calibration"][key]) for r in reports.values())
        assert result["calibration"][key] == counted.tolist()
    temporal = result["temporal_consistency"]
    assert {key: temporal[key] for key in COUNTS} == counts
    assert temporal["changed_share"] == counts["changed_pixels"] / counts["pixels"]
    assert result["frames"] == sum(r["frames"] for r in reports.values())
    rows = {row["drive"]: row for row in result["drives"]}
    assert {name: row["mean_iou"] for name, row in rows.items()} == {
        name: report["mean_iou"] for name, report in reports.items()
    }
    scores = [row["mean_iou"] for row in result["drives"]]
    assert scores == sorted(scores)


def stored(out):
    """The reports in a folder, by the name of their file."""
    files = [path for path in Path(out).glob("*.json") if ".failed" not in path.name]
    return {path.name: json.loads(path.read_text()) for path in files}


def mean_iou_of(out, names):
    """Over these drives, from the pixels in their reports."""
    found = [c["report"] for c in stored(out).values() if Path(c["drive"]).name in names]
    pixels = sum(np.array(report["confusion_matrix"]["pixels"]) for report in found)
    hits = np.diagonal(pixels)
    union = pixels.sum(axis=1) + pixels[:, :-1].sum(axis=0) - hits
    return (hits[union > 0] / union[union > 0]).mean()
