"""A fleet's merged figures are those of its drives, summed here by hand, whoever dies meanwhile."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support import drives
from support.linear_model import write_model, write_sizes
from support.small_bags import SIZE, drive, write_bag

from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.commands.fleet import ENGINES
from segmentation_node.evaluation.fleet.executors import EXECUTORS
from segmentation_node.evaluation.fleet.page import fleet_page
from segmentation_node.labels import CAMVID_11

FLEET = [sys.executable, "-m", "segmentation_node.evaluation", "fleet"]
OPTIONS = ["--labels", "camvid11", "--backend", "onnxruntime", "--num-threads", "1"]
COUNTS = ["frame_pairs", "pixels", "changed_pixels"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Four bags of 3 to 6 frames, and a model."""
    folder = tmp_path_factory.mktemp("fleet")
    write_model(folder / "model", SIZE)
    for index in range(4):
        write_bag(folder / ("drive%d" % index), "mcap", drive(3 + index, 10 * index))
    return folder


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


NAMES = ["drive0", "drive1", "drive2", "drive3"]


def test_merged_figures_are_the_sums(data, tmp_path):
    expected = one_by_one(data, tmp_path, NAMES)
    assert fleet(data, tmp_path / "out", "--jobs", "2") == 0
    result = merged(tmp_path, tmp_path / "out")
    assert_is_the_sum(result, expected)
    reports = [content["report"] for content in stored(tmp_path / "out").values()]
    for stage, found in result["stages_ms"].items():
        values = [frame[stage + "_ms"] for r in reports for frame in r["per_frame"]]
        assert len(values) == result["frames"]
        assert list(found.values()) == np.percentile(values, [50, 95, 99]).tolist()


def test_what_a_geometry_leaves_out_counts_nowhere(data, tmp_path, capsys):
    geometry = ["--roi", "4", "2", "40", "30", "--rotation", "180"]
    path = tmp_path / "drive0.json"
    words = ["bag", str(data / "drive0"), "--model", str(data / "model"), "--json", str(path)]
    assert main(words + OPTIONS + geometry) == 0
    expected = json.loads(path.read_text())
    assert fleet(data, tmp_path / "out", *geometry, "--jobs", 1, drive="drive0") == 0
    assert_is_the_sum(merged(tmp_path, tmp_path / "out"), {str(data / "drive0"): expected})
    (report,) = [content["report"] for content in stored(tmp_path / "out").values()]
    assert report["source"]["roi"] == [4, 2, 40, 30] and report["source"]["rotation"] == 180
    assert fleet(data, tmp_path / "out", "--jobs", 1, drive="drive0") == 0
    assert len(stored(tmp_path / "out")) == 2
    assert main(["merge", str(tmp_path / "out")]) == 1
    assert "other options" in capsys.readouterr().err
    assert fleet(data, tmp_path / "other", "--rotation", "45") == 1
    assert "the rotation is 45; expected one of" in capsys.readouterr().err


def test_another_size_of_the_model_is_scored_apart(data, tmp_path):
    small = (SIZE[0] // 2, SIZE[1] // 2)
    model = ["--model", write_sizes(tmp_path / "sizes", [SIZE, small]), "--jobs", 1]
    for options in (model, [*model, "--size", "%dx%d" % small]):
        assert fleet(data, tmp_path / "out", *options, drive="drive0") == 0
    reports = [content["report"] for content in stored(tmp_path / "out").values()]
    sizes = {report["source"]["input_size"] for report in reports}
    assert sizes == {"%dx%d" % size[::-1] for size in (SIZE, small)}


def test_the_command_offers_every_executor():
    assert set(ENGINES) == set(EXECUTORS)


def test_three_shards_are_the_whole(data, tmp_path):
    for number in (1, 2, 3):
        assert fleet(data, tmp_path / "out", "--shard", "%d/3" % number, "--jobs", 1) == 0
    assert len(stored(tmp_path / "out")) == 4
    result = merged(tmp_path, tmp_path / "out")
    assert_is_the_sum(result, one_by_one(data, tmp_path, NAMES))


@pytest.mark.slow
def test_ray_gives_the_same(data, tmp_path):
    pytest.importorskip("ray", reason="no Ray: make setup-fleet")
    assert fleet(data, tmp_path / "out", "--executor", "ray", "--jobs", 2) == 0
    result = merged(tmp_path, tmp_path / "out")
    assert_is_the_sum(result, one_by_one(data, tmp_path, NAMES))


def test_class_changes_are_summed(data, tmp_path):
    assert fleet(data, tmp_path / "out", "--jobs", 1) == 0
    result = merged(tmp_path, tmp_path / "out")["temporal_consistency"]
    found = [c["report"]["temporal_consistency"] for c in stored(tmp_path / "out").values()]
    for name, total in result["class_pixels"].items():
        changed = sum(item["class_changed_pixels"].get(name, 0) for item in found)
        assert total == sum(item["class_pixels"].get(name, 0) for item in found)
        assert result["class_changed_share"][name] == 1.0 - (total - changed) / total
    assert sum(result["class_pixels"].values()) == result["pixels"]


def test_what_is_there_is_not_done_again(data, tmp_path, capsys):
    assert fleet(data, tmp_path / "out", "--jobs", 1, drive="drive[01]") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert fleet(data, tmp_path / "out", "--jobs", 1) == 0
    assert "4 drives, 2 of them done before\n2 scored" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


def long_drives(folder, count, frames):
    """Bags that take a while: one after the other, a frame counts some milliseconds."""
    write_model(folder / "model", SIZE, channels=64)
    for index in range(count):
        write_bag(folder / ("drive%02d" % index), "mcap", drive(frames, index))


def workers_of(pid):
    """Its workers: spawned children, not multiprocessing's own tracker."""
    found = []
    for child in Path("/proc/%d/task/%d/children" % (pid, pid)).read_text().split():
        if b"spawn_main" in Path("/proc", child, "cmdline").read_bytes():
            found.append(int(child))
    return found


def wait_for(condition, process):
    """Until it holds, as long as the process lives."""
    while not condition():
        assert process.poll() is None, "the fleet ended before its worker could be killed"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_killed_workers_and_drivers_change_nothing(tmp_path):
    long_drives(tmp_path, 12, 100)
    out = tmp_path / "out"
    words = [str(tmp_path / "drive*"), "--model", str(tmp_path / "model"), "--output", str(out)]
    command = FLEET + words + OPTIONS + ["--jobs", "2"]
    process = subprocess.Popen(command)
    wait_for(lambda: len(stored_names(out)) >= 2, process)
    os.kill(workers_of(process.pid)[0], signal.SIGKILL)
    wait_for(lambda: len(stored_names(out)) >= 5, process)
    workers = workers_of(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while any(os.path.exists("/proc/%d" % pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived its driver"
        time.sleep(0.01)
    before = {name: (out / name).stat().st_mtime_ns for name in stored_names(out)}
    assert 5 <= len(before) < 12
    assert subprocess.run(command).returncode == 0
    assert len(stored_names(out)) == 12
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    names = ["drive%02d" % index for index in range(12)]
    assert_is_the_sum(merged(tmp_path, out), one_by_one(tmp_path, tmp_path, names))


def stored_names(out):
    return [path.name for path in Path(out).glob("*.json")]


@pytest.mark.slow
def test_ctrl_c_leaves_what_is_done(tmp_path):
    long_drives(tmp_path, 12, 100)
    out = tmp_path / "out"
    words = [str(tmp_path / "drive*"), "--model", str(tmp_path / "model"), "--output", str(out)]
    process = subprocess.Popen(
        FLEET + words + OPTIONS + ["--jobs", "1"], stderr=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(stored_names(out)) >= 1, process)
    process.send_signal(signal.SIGINT)
    error = process.communicate()[1]
    assert process.returncode == 130
    assert error.splitlines()[-1].startswith("interrupted: what is scored stays")
    assert 1 <= len(stored(out)) < 12


def test_bad_drives_are_named_and_the_others_scored(data, tmp_path, capsys):
    for name in NAMES[:3]:
        shutil.copytree(data / name, tmp_path / name)
    drives.cut(tmp_path / "drive2", tmp_path / "cut", 0.6)
    write_bag(tmp_path / "blind", "mcap", drive(3)[1::2])
    names = ["drive0", "cut", "blind", "gone"]
    lines = "".join("%s\n" % (tmp_path / name) for name in names)
    (tmp_path / "list.txt").write_text(lines, encoding="utf-8-sig")
    words = [str(tmp_path / "list.txt"), "--model", str(data / "model"), "--jobs", "2"]
    out = tmp_path / "out"
    assert main(["fleet"] + words + OPTIONS + ["--output", str(out)]) == 1
    errors = capsys.readouterr().err
    assert "%s: no such bag" % (tmp_path / "gone") in errors
    assert "%s: no camera image found" % (tmp_path / "blind") in errors
    result = merged(tmp_path, out, "--html", tmp_path / "page.html", code=1)
    assert [Path(item["drive"]).name for item in result["failed"]] == ["blind", "gone"]
    assert {Path(row["drive"]).name for row in result["drives"]} == {"drive0", "cut"}
    problems = {Path(row["drive"]).name: row["problems"] for row in result["drives"]}
    assert not problems["drive0"] and problems["cut"]
    assert str(tmp_path / "gone") in (tmp_path / "page.html").read_text()
    # What failed is tried again, and no longer named once it is scored.
    shutil.copytree(data / "drive1", tmp_path / "gone")
    assert main(["fleet"] + words + OPTIONS + ["--output", str(out)]) == 1
    again = merged(tmp_path, out, code=1)
    assert [Path(item["drive"]).name for item in again["failed"]] == ["blind"]


def test_a_folder_whose_name_reads_like_a_pattern_is_itself(data, tmp_path):
    for index, name in enumerate(("run[12]", "run1", "run2")):
        shutil.copytree(data / NAMES[index], tmp_path / name)
    assert fleet(tmp_path, tmp_path / "one", "--model", data / "model", drive="run[12]") == 0
    assert [Path(row["drive"]).name for row in merged(tmp_path, tmp_path / "one")["drives"]] == [
        "run[12]"
    ]
    assert fleet(tmp_path, tmp_path / "two", "--model", data / "model", drive="run[1]") == 0
    assert [Path(row["drive"]).name for row in merged(tmp_path, tmp_path / "two")["drives"]] == [
        "run1"
    ]


def mean_iou_of(out, names):
    """Over these drives, from the pixels in their reports."""
    found = [c["report"] for c in stored(out).values() if Path(c["drive"]).name in names]
    pixels = sum(np.array(report["confusion_matrix"]["pixels"]) for report in found)
    hits = np.diagonal(pixels)
    union = pixels.sum(axis=1) + pixels[:, :-1].sum(axis=0) - hits
    return (hits[union > 0] / union[union > 0]).mean()


def test_two_fleets_are_compared(data, tmp_path, capsys):
    write_model(tmp_path / "other", SIZE, channels=2, name="other")
    assert fleet(data, tmp_path / "one", "--jobs", 1) == 0
    words = [str(data / "drive[012]"), "--model", str(tmp_path / "other"), "--jobs", "1"]
    assert main(["fleet"] + words + OPTIONS + ["--output", str(tmp_path / "two")]) == 0
    there = merged(tmp_path, tmp_path / "two")
    here = merged(tmp_path, tmp_path / "one", "--against", tmp_path / "two")
    found = here["against"]
    assert found["model"] == "other" and found["only_here"] == [str(data / "drive3")]
    in_both = [mean_iou_of(tmp_path / name, NAMES[:3]) for name in ("one", "two")]
    assert found["all"]["drives"] == 3
    assert found["all"]["mean_iou"] == pytest.approx(in_both[0] - in_both[1], abs=1e-12)
    assert mean_iou_of(tmp_path / "one", NAMES) != pytest.approx(in_both[0], abs=1e-4)
    shown = capsys.readouterr().out
    assert "3 drives in both  " in shown and "1 drives only here, 0 only there" in shown
    rows = [{row["drive"]: row for row in result["drives"]} for result in (here, there)]
    for row in found["drives"]:
        one, other = (by_name[row["drive"]] for by_name in rows)
        for name, difference in row["class_iou"].items():
            assert difference == one["class_iou"][name] - other["class_iou"][name]


def test_fleets_without_a_drive_in_common_have_no_difference(data, tmp_path, capsys):
    for out, name in (("one", "drive0"), ("two", "drive1")):
        assert fleet(data, tmp_path / out, "--jobs", 1, drive=name) == 0
    found = merged(tmp_path, tmp_path / "one", "--against", tmp_path / "two")["against"]
    assert found["all"] == {"mean_iou": None, "class_iou": {}, "drives": 0}
    assert "1 drives only here, 1 only there" in capsys.readouterr().out


def test_groups_are_not_compared_with_classes(data, tmp_path, capsys):
    (tmp_path / "groups.yaml").write_text("name: g\ngroups: {ground: [road], rest: '*'}\n")
    assert fleet(data, tmp_path / "one", "--jobs", 1, drive="drive0") == 0
    grouping = ["--grouping", tmp_path / "groups.yaml"]
    assert fleet(data, tmp_path / "two", "--jobs", 1, *grouping, drive="drive0") == 0
    for pair in (["one", "two"], ["two", "one"]):
        here, there = (str(tmp_path / name) for name in pair)
        assert main(["merge", here, "--against", there]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: --against: IoU is by ") and "'ground', 'rest'" in error


def test_figures_of_a_drive_that_now_fails_are_left_out(data, tmp_path, capsys):
    for name in NAMES[:2]:
        shutil.copytree(data / name, tmp_path / name)
    out, model = tmp_path / "out", ["--model", data / "model", "--jobs", 1]
    assert fleet(tmp_path, out, *model, drive="drive[01]") == 0
    (bag,) = (tmp_path / "drive1").glob("*.mcap")
    content, times = bag.read_bytes(), (bag.stat().st_atime_ns, bag.stat().st_mtime_ns)
    bag.write_bytes(b"junk")
    assert fleet(tmp_path, out, *model, drive="drive[01]") == 1
    result = merged(tmp_path, out, "--html", tmp_path / "page.html", code=1)
    (expected,) = one_by_one(data, tmp_path, NAMES[:1]).values()
    assert_is_the_sum(result, {str(tmp_path / "drive0"): expected})
    (failed,) = result["failed"]
    assert failed["drive"] == str(tmp_path / "drive1") and len(failed["left_out"]) == 1
    assert "its earlier report is left out" in capsys.readouterr().err
    assert "its earlier report is left out" in (tmp_path / "page.html").read_text()
    # Once it is what it was, its report counts again.
    bag.write_bytes(content)
    os.utime(bag, ns=times)
    assert fleet(tmp_path, out, *model, drive="drive[01]") == 0
    assert len(merged(tmp_path, out)["drives"]) == 2


def test_a_merge_wants_two_files_for_two_reports(tmp_path, capsys):
    both = ["--json", str(tmp_path / "one"), "--html", str(tmp_path / "." / "one")]
    assert main(["merge", str(tmp_path), *both]) == 1
    assert "--json and --html name the same file" in capsys.readouterr().err


def test_reports_of_two_models_are_not_summed(data, tmp_path, capsys):
    write_model(tmp_path / "other", SIZE, name="other")
    assert fleet(data, tmp_path / "out", "--jobs", 1, drive="drive0") == 0
    words = [str(data / "drive1"), "--model", str(tmp_path / "other"), "--jobs", "1"]
    assert main(["fleet"] + words + OPTIONS + ["--output", str(tmp_path / "out")]) == 0
    assert main(["merge", str(tmp_path / "out")]) == 1
    assert "another model, other options" in capsys.readouterr().err


def test_fail_below(data, tmp_path):
    assert fleet(data, tmp_path / "out", "--jobs", 1, "--fail-below", 0.001) == 0
    assert fleet(data, tmp_path / "out", "--jobs", 1, "--fail-below", 0.9) == 1


def test_fail_below_judges_the_drives_that_are_named(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert fleet(data, out, "--jobs", 1) == 0
    both, one = mean_iou_of(out, NAMES), mean_iou_of(out, NAMES[:1])
    between = (both + one) / 2
    assert fleet(data, out, "--fail-below", between) == int(both < between)
    assert "not judged" not in capsys.readouterr().out
    assert fleet(data, out, "--fail-below", between, drive="drive0") == int(one < between)
    shown = capsys.readouterr().out
    assert "mean IoU %.4f over 1 drives" % one in shown
    assert "not judged: 3 other reports in %s" % out in shown
    assert fleet(data, out, "--fail-below", 0.9, "--shard", "2/2", drive="drive0") == 0
    assert "nothing to judge" in capsys.readouterr().out


@pytest.mark.parametrize("mark", ["nan", "-0.1", "60"])
def test_fail_below_is_a_share(mark, data, tmp_path, capsys):
    with pytest.raises(SystemExit):
        fleet(data, tmp_path / "out", "--fail-below", mark)
    assert "%s is not from 0 to 1" % mark in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["images/val/a.png", "labels/val/a.png", "labels.yaml"])
def test_a_data_set_that_changed_is_scored_again(changed, tmp_path, capsys):
    for index, stem in enumerate("ab"):
        image = np.random.RandomState(index).randint(0, 256, SIZE + (3,)).astype(np.uint8)
        drives.write(tmp_path / "images/val" / (stem + ".png"), image)
        drives.write(tmp_path / "labels/val" / (stem + ".png"), image[..., 0] % 11)
    names = "".join("  - {name: %s}\n" % item for item in CAMVID_11.names)
    (tmp_path / "labels.yaml").write_text("name: mine\nclasses:\n" + names)
    model = write_model(tmp_path / "model", SIZE)
    words = ["--model", model, "--dataset", "folder", "--root", tmp_path, "--backend"]
    words += ["onnxruntime", "--jobs", 1, "--output", tmp_path / "out"]
    command = ["fleet"] + [str(word) for word in words]
    for done in (0, 1):
        assert main(command) == 0
        assert "1 drives, %d of them done before" % done in capsys.readouterr().out
    path = tmp_path / changed
    if changed == "labels.yaml":
        path.write_text(path.read_text().replace("sky", "sky, color: [1, 2, 3]"))
    else:
        image = np.zeros(SIZE + (3,) * changed.startswith("images"), np.uint8)
        drives.write(path, image)
    assert main(command) == 0
    assert "1 drives, 0 of them done before" in capsys.readouterr().out
    # The command judges the report of now, whatever else lies there.
    assert main(command + ["--fail-below", "0"]) == 0
    assert "not judged: 1 other reports" in capsys.readouterr().out


def test_sequences_of_a_data_set(tmp_path, capsys):
    """Two sequences of KITTI-STEP are two drives, and together the split."""
    for sequence, seed in (("0002", 1), ("0005", 2)):
        for frame in range(3):
            ids = np.random.RandomState(10 * seed + frame).randint(0, 19, SIZE).astype(np.uint8)
            place = "%s/%06d.png" % (sequence, frame)
            panoptic = np.stack([ids, 0 * ids, 0 * ids], axis=-1)
            drives.write(tmp_path / "panoptic_maps/val" / place, panoptic)
            image = np.repeat(13 * ids[..., None], 3, axis=-1)
            drives.write(tmp_path / "training/image_02" / place, image)
    write_model(tmp_path / "model", SIZE, "cityscapes19")
    options = ["--model", tmp_path / "model", "--dataset", "kitti_step", "--root", tmp_path]
    words = [str(word) for word in options] + ["--backend", "onnxruntime", "--split", "val"]
    (tmp_path / "panoptic_maps/val/README.txt").write_text("x")
    note = "%s: left out, no sequence's folder (1): README.txt" % (tmp_path / "panoptic_maps/val")
    assert main(["fleet"] + words + ["--output", str(tmp_path / "out"), "--jobs", "1"]) == 0
    assert main(["dataset"] + words + ["--no-iiou", "--json", str(tmp_path / "one.json")]) == 0
    expected = json.loads((tmp_path / "one.json").read_text())
    result = merged(tmp_path, tmp_path / "out")
    names = sorted(row["drive"] for row in result["drives"])
    assert names == ["kitti_step val 0002", "kitti_step val 0005"]
    assert expected["source"]["left_out"] == [note]
    assert [row["problems"] for row in result["drives"]] == [[]] * 2
    assert result["not_read"] == [note] and "README.txt" in fleet_page(result)
    said = capsys.readouterr().err
    assert "warning: " + note in said and "damaged" not in said
    for key in ("confusion_matrix", "mean_iou", "class_iou", "category_iou", "frames"):
        assert result[key] == expected[key]
    assert result["temporal_consistency"] == expected["temporal_consistency"]
    assert result["temporal_consistency"]["frame_pairs"] == 4


@pytest.mark.parametrize(
    "words, message",
    [
        (["nowhere/*"], "nowhere/*: no drive found"),
        (["missing.txt"], "missing.txt: no list of drives"),
        ([], "name the drives to score, or --dataset"),
        (["a", "--address", "auto"], "--address and --gpus-per-drive are Ray's"),
    ],
)
def test_mistakes_take_one_line(data, words, message, tmp_path, capsys):
    options = ["--model", str(data / "model"), "--output", str(tmp_path / "out")]
    assert main(["fleet"] + words + options) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ray", "fsspec"])
def test_what_is_missing_is_named(name, data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    given = ["--executor", "ray"] if name == "ray" else []
    out = tmp_path / "out" if name == "ray" else "s3://bucket/out"
    assert fleet(data, out, *given) == 1
    error = capsys.readouterr().err.strip()
    assert "make setup-fleet" in error and len(error.splitlines()) == 1


def test_the_page_of_a_thousand_drives_is_small():
    """Text in boxes that scroll: no charts or pictures by drive."""
    row = {"mean_iou": 0.5, "class_iou": {"road": 0.5}, "changed_share": 0.1, "frames": 9}
    rows = [dict(row, drive="d%d" % i, frames_skipped=0, problems=[]) for i in range(1000)]
    page = fleet_page(
        {
            "model": "m", "drives": rows, "failed": [], "not_read": [], "frames": 9000,
            "frames_skipped": 0, "mean_iou": 0.5, "class_iou": {"road": 0.5}, "stages_ms": {},
            "calibration": None, "temporal_consistency": {"changed_share": 0.1},
        }
    )  # fmt: skip
    assert page.count("<tr>") == 1003 and len(page) < 400_000


@pytest.fixture
def s3(monkeypatch):
    """The URL of an S3 server on this machine: moto's, with one bucket."""
    fsspec = pytest.importorskip("fsspec", reason="no fsspec: make setup-fleet")
    pytest.importorskip("s3fs", reason="no s3fs: make setup-fleet")
    pytest.importorskip("moto.server", reason="no S3 server: pip install 'moto[server]'")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    url = "http://127.0.0.1:%d" % port
    try:
        while True:
            assert process.poll() is None
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        files = fsspec.filesystem("s3", endpoint_url=url)
        files.mkdir("fleet")
        yield files, url
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_drives_and_reports_on_s3(s3, data, tmp_path, capsys):
    files, endpoint = s3
    for name in NAMES:
        files.put(str(data / name), "fleet/drives/" + name, recursive=True)
    words = ["s3://fleet/drives/*", "s3://fleet/drives/gone", "--model", str(data / "model")]
    words += ["--output", "s3://fleet/out", "--endpoint-url", endpoint, "--jobs", "2"]
    assert main(["fleet"] + words + OPTIONS) == 1
    assert "s3://fleet/drives/gone: no such bag" in capsys.readouterr().err
    result = merged(tmp_path, "s3://fleet/out", "--endpoint-url", endpoint, code=1)
    expected = one_by_one(data, tmp_path, NAMES)
    at_s3 = {"s3://fleet/drives/" + Path(name).name: item for name, item in expected.items()}
    assert_is_the_sum(result, at_s3)
    assert main(["fleet"] + words + OPTIONS) == 1
    assert "5 drives, 4 of them done before" in capsys.readouterr().out
