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
from support.fleets import NAMES, OPTIONS, assert_is_the_sum, fleet, merged, one_by_one, stored
from support.linear_model import write_model, write_sizes
from support.small_bags import SIZE, drive, write_bag

from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.commands.fleet import ENGINES
from segmentation_node.evaluation.fleet.executors import EXECUTORS
from segmentation_node.evaluation.fleet.page import fleet_page
from segmentation_node.labels import CAMVID_11

FLEET = [sys.executable, "-m", "segmentation_node.evaluation", "fleet"]


def test_merged_figures_are_the_sums(fleet_data, scored, tmp_path):
    expected = one_by_one(fleet_data, tmp_path, NAMES)
    result = merged(tmp_path, scored)
    assert_is_the_sum(result, expected)
    reports = [content["report"] for content in stored(scored).values()]
    for stage, found in result["stages_ms"].items():
        values = [frame[stage + "_ms"] for r in reports for frame in r["per_frame"]]
        assert len(values) == result["frames"]
        assert list(found.values()) == np.percentile(values, [50, 95, 99]).tolist()


def test_what_a_geometry_leaves_out_counts_nowhere(fleet_data, tmp_path, capsys):
    geometry = ["--roi", "4", "2", "40", "30", "--rotation", "180"]
    path = tmp_path / "drive0.json"
    words = [
        "bag",
        str(fleet_data / "drive0"),
        "--model",
        str(fleet_data / "model"),
        "--json",
        str(path),
    ]
    assert main(words + OPTIONS + geometry) == 0
    expected = json.loads(path.read_text())
    assert fleet(fleet_data, tmp_path / "out", *geometry, "--jobs", 1, drive="drive0") == 0
    assert_is_the_sum(merged(tmp_path, tmp_path / "out"), {str(fleet_data / "drive0"): expected})
    (report,) = [content["report"] for content in stored(tmp_path / "out").values()]
    assert report["source"]["roi"] == [4, 2, 40, 30] and report["source"]["rotation"] == 180
    assert fleet(fleet_data, tmp_path / "out", "--jobs", 1, drive="drive0") == 0
    assert len(stored(tmp_path / "out")) == 2
    assert main(["merge", str(tmp_path / "out")]) == 1
    assert "other options" in capsys.readouterr().err
    assert fleet(fleet_data, tmp_path / "other", "--rotation", "45") == 1
    assert "the rotation is 45; expected one of" in capsys.readouterr().err


def test_another_size_of_the_model_is_scored_apart(fleet_data, tmp_path):
    small = (SIZE[0] // 2, SIZE[1] // 2)
    model = ["--model", write_sizes(tmp_path / "sizes", [SIZE, small]), "--jobs", 1]
    for options in (model, [*model, "--size", "%dx%d" % small]):
        assert fleet(fleet_data, tmp_path / "out", *options, drive="drive0") == 0
    reports = [content["report"] for content in stored(tmp_path / "out").values()]
    sizes = {report["source"]["input_size"] for report in reports}
    assert sizes == {"%dx%d" % size[::-1] for size in (SIZE, small)}


def test_the_command_offers_every_executor():
    assert set(ENGINES) == set(EXECUTORS)


def test_three_shards_are_the_whole(fleet_data, tmp_path):
    for number in (1, 2, 3):
        assert fleet(fleet_data, tmp_path / "out", "--shard", "%d/3" % number, "--jobs", 1) == 0
    assert len(stored(tmp_path / "out")) == 4
    result = merged(tmp_path, tmp_path / "out")
    assert_is_the_sum(result, one_by_one(fleet_data, tmp_path, NAMES))


@pytest.mark.slow
def test_ray_gives_the_same(fleet_data, tmp_path):
    pytest.importorskip("ray", reason="no Ray: make setup-fleet")
    assert fleet(fleet_data, tmp_path / "out", "--executor", "ray", "--jobs", 2) == 0
    result = merged(tmp_path, tmp_path / "out")
    assert_is_the_sum(result, one_by_one(fleet_data, tmp_path, NAMES))


def test_class_changes_are_summed(scored, tmp_path):
    result = merged(tmp_path, scored)["temporal_consistency"]
    found = [c["report"]["temporal_consistency"] for c in stored(scored).values()]
    for name, total in result["class_pixels"].items():
        changed = sum(item["class_changed_pixels"].get(name, 0) for item in found)
        assert total == sum(item["class_pixels"].get(name, 0) for item in found)
        assert result["class_changed_share"][name] == 1.0 - (total - changed) / total
    assert sum(result["class_pixels"].values()) == result["pixels"]


def test_what_is_there_is_not_done_again(fleet_data, tmp_path, capsys):
    assert fleet(fleet_data, tmp_path / "out", "--jobs", 1, drive="drive[01]") == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert fleet(fleet_data, tmp_path / "out", "--jobs", 1) == 0
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


def test_bad_drives_are_named_and_the_others_scored(fleet_data, tmp_path, capsys):
    for name in NAMES[:3]:
        shutil.copytree(fleet_data / name, tmp_path / name)
    drives.cut(tmp_path / "drive2", tmp_path / "cut", 0.6)
    write_bag(tmp_path / "blind", "mcap", drive(3)[1::2])
    names = ["drive0", "cut", "blind", "gone"]
    lines = "".join("%s\n" % (tmp_path / name) for name in names)
    (tmp_path / "list.txt").write_text(lines, encoding="utf-8-sig")
    words = [str(tmp_path / "list.txt"), "--model", str(fleet_data / "model"), "--jobs", "2"]
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
    shutil.copytree(fleet_data / "drive1", tmp_path / "gone")
    assert main(["fleet"] + words + OPTIONS + ["--output", str(out)]) == 1
    again = merged(tmp_path, out, code=1)
    assert [Path(item["drive"]).name for item in again["failed"]] == ["blind"]


def test_a_folder_whose_name_reads_like_a_pattern_is_itself(fleet_data, tmp_path):
    for index, name in enumerate(("run[12]", "run1", "run2")):
        shutil.copytree(fleet_data / NAMES[index], tmp_path / name)
    assert fleet(tmp_path, tmp_path / "one", "--model", fleet_data / "model", drive="run[12]") == 0
    assert [Path(row["drive"]).name for row in merged(tmp_path, tmp_path / "one")["drives"]] == [
        "run[12]"
    ]
    assert fleet(tmp_path, tmp_path / "two", "--model", fleet_data / "model", drive="run[1]") == 0
    assert [Path(row["drive"]).name for row in merged(tmp_path, tmp_path / "two")["drives"]] == [
        "run1"
    ]


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
        (["a", "--root", "R", "--split", "test"], "--root, --split: no effect without --dataset"),
        (["--dataset", "street", "--labels", "camvid11"], "--labels: no effect with --dataset"),
    ],
)
def test_mistakes_take_one_line(fleet_data, words, message, tmp_path, capsys):
    options = ["--model", str(fleet_data / "model"), "--output", str(tmp_path / "out")]
    assert main(["fleet"] + words + options) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["ray", "fsspec"])
def test_what_is_missing_is_named(name, fleet_data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    given = ["--executor", "ray"] if name == "ray" else []
    out = tmp_path / "out" if name == "ray" else "s3://bucket/out"
    assert fleet(fleet_data, out, *given) == 1
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
            "computed_by": {"onnxruntime fp32": 1000},
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
def test_drives_and_reports_on_s3(s3, fleet_data, tmp_path, capsys):
    files, endpoint = s3
    for name in NAMES:
        files.put(str(fleet_data / name), "fleet/drives/" + name, recursive=True)
    words = ["s3://fleet/drives/*", "s3://fleet/drives/gone", "--model", str(fleet_data / "model")]
    words += ["--output", "s3://fleet/out", "--endpoint-url", endpoint, "--jobs", "2"]
    assert main(["fleet"] + words + OPTIONS) == 1
    assert "s3://fleet/drives/gone: no such bag" in capsys.readouterr().err
    result = merged(tmp_path, "s3://fleet/out", "--endpoint-url", endpoint, code=1)
    expected = one_by_one(fleet_data, tmp_path, NAMES)
    at_s3 = {"s3://fleet/drives/" + Path(name).name: item for name, item in expected.items()}
    assert_is_the_sum(result, at_s3)
    assert main(["fleet"] + words + OPTIONS) == 1
    assert "5 drives, 4 of them done before" in capsys.readouterr().out
