"""Scoring the tiny model, whose mistakes are painted into the images, against a count by hand."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack

import numpy as np
import pytest
from support.core import tiny
from support.core.real_data import PROJECT
from support.core.tiny import VOID

from segmentation_node.backends import BACKENDS, BackendOptions, open_backend
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.frame import Frame
from segmentation_node.evaluation.offline import evaluate_dataset
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19
from segmentation_node.model_card import read_card
from segmentation_node.pipeline import Batch, Segmenter

SKY, BUILDING, ROAD, TREE, CAR, PEDESTRIAN = 0, 1, 3, 5, 8, 9
STAGES = ["inference", "postprocess", "preprocess", "processing"]


@pytest.fixture(scope="module")
def segmenter():
    missing = BACKENDS["onnxruntime"].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)
    with open_backend("onnxruntime", tiny.card(), BackendOptions(num_threads=1)) as backend:
        yield Segmenter(Batch(backend))


@pytest.fixture
def root(tmp_path):
    """Two frames: 24 of road, 20 of sky and 4 void; then 48 of car.

    The network sees 8 pixels of the sky as building, and tree under the void.
    """
    truth = np.full((6, 8), ROAD, np.uint8)
    truth[:3] = SKY
    seen = truth.copy()
    seen[0] = BUILDING
    seen[1, :4] = TREE
    truth[1, :4] = VOID
    car = np.full((6, 8), CAR, np.uint8)
    frames = {"a.png": (tiny.paint(seen), truth), "b.png": (tiny.paint(car), car)}
    tiny.write_camvid(tmp_path, "test", frames)
    return str(tmp_path)


def assert_counted_by_hand(result):
    expected = dict.fromkeys(CAMVID_11.names)
    expected.update({"road": 1.0, "car": 1.0, "sky": 12 / 20.0, "building": 0.0})
    assert result["class_iou"] == pytest.approx(expected)
    assert result["mean_iou"] == pytest.approx((1 + 1 + 0.6 + 0) / 4)
    assert result["global_accuracy"] == pytest.approx((24 + 12 + 48) / 92.0)
    assert result["mean_accuracy"] == pytest.approx((1 + 1 + 0.6) / 3)
    assert result["frames"] == 2
    assert result["level"] == "class"
    assert sorted(result["stages_ms"]) == STAGES
    for percentiles in result["stages_ms"].values():
        assert sorted(percentiles) == ["p50", "p95", "p99"]


def test_a_data_set_is_scored_as_counted_by_hand(segmenter, root):
    run = evaluate_dataset(segmenter, open_dataset("camvid", root, "test"))
    assert_counted_by_hand(run.as_json())


def test_chosen_frames_alone_are_scored(segmenter, root):
    result = evaluate_dataset(segmenter, open_dataset("camvid", root, "test"), [1]).as_json()
    assert result["frames"] == 1
    assert result["mean_iou"] == 1.0


class TwoLabelSets(Dataset):
    """Cityscapes' labels on what the CamVid network sees in one frame."""

    label_set = CITYSCAPES_19
    splits = ("val",)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        # (true Cityscapes class, CamVid class that the network sees) of one row of 8 each
        rows = [(0, ROAD), (1, ROAD), (3, BUILDING), (12, PEDESTRIAN), (14, TREE), (255, CAR)]
        truth, seen = (np.array([row] * 8, np.uint8).T for row in zip(*rows))
        return Frame("frame", tiny.paint(seen), truth)


def test_two_label_sets_are_compared_on_the_seven_categories(segmenter):
    result = evaluate_dataset(segmenter, TwoLabelSets("", "val")).as_json()
    assert result["level"] == "category"
    assert result["class_iou"] == {
        "flat": 1.0,  # road and sidewalk, both seen as road
        "construction": 1.0,  # wall, seen as building
        "object": None,
        "nature": 0.0,  # never there, but seen on the truck
        "sky": None,
        "human": 1.0,  # rider, seen as pedestrian
        "vehicle": 0.0,  # truck, seen as tree
    }
    assert result["mean_iou"] == pytest.approx(3 / 5.0)
    assert result["global_accuracy"] == pytest.approx(32 / 40.0)


def arguments(root, json_path, model=tiny.FOLDER):
    return [
        "dataset", "--model", model, "--dataset", "camvid", "--root", root, "--split", "test",
        "--json", json_path, "--backend", "onnxruntime", "--num-threads", "1",
    ]  # fmt: skip


@pytest.mark.usefixtures("segmenter")
def test_a_geometry_is_scored_and_reported(root, tmp_path):
    json_path = str(tmp_path / "scores.json")
    options = ["--roi", "0", "0", "8", "3", "--rotation", "180"]
    assert main(arguments(root, json_path) + options) == 0
    with open(json_path) as content:
        result = json.load(content)
    assert main(arguments(root, json_path)) == 0
    with open(json_path) as content:
        whole = json.load(content)
    counted, all_of_it = (np.sum(item["confusion_matrix"]["pixels"]) for item in (result, whole))
    assert 0 < counted < all_of_it
    assert result["source"]["roi"] == [0, 0, 8, 3] and result["source"]["rotation"] == 180
    assert "roi" not in whole["source"]


@pytest.mark.usefixtures("segmenter")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rotation", "45"], "the rotation is 45"),
        (["--roi", "0", "0", "0", "9"], "the roi is [0, 0, 0, 9]"),
        (["--ignore-mask", "/none.png"], "the mask /none.png"),
        (["--roi", "0", "0", "900", "9"], "reaches (900, 9)"),
    ],
)
def test_a_geometry_that_does_not_fit_is_one_line(root, tmp_path, capsys, options, said):
    assert main(arguments(root, str(tmp_path / "scores.json")) + options) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and said in errors[0]


@pytest.mark.skipif(sys.version_info < (3, 10), reason="cards are written by a newer Python")
def test_how_sure_a_model_is_goes_onto_its_card(segmenter, root, tmp_path, capsys):
    folder = str(tmp_path / "model")
    shutil.copytree(tiny.FOLDER, folder)
    data = ["--dataset", "camvid", "--root", root, "--split", "test"]
    run_on = ["--model", folder, "--backend", "onnxruntime"]
    assert main(["confidence"] + run_on + data) == 0
    found = read_card(folder).confidence
    assert "confidence %.4f" % found.mean in capsys.readouterr().out
    dataset = open_dataset("camvid", root, "test")
    means = [
        segmenter.segment(dataset[index].image_hwc, with_confidence=True).confidence_hw.mean() / 255
        for index in range(len(dataset))
    ]
    # The images have the network's size, so that the grid takes each of its pixels.
    assert found.mean == pytest.approx(np.mean(means), abs=1e-3)
    assert found.deviation == pytest.approx(np.std(means), abs=1e-3)
    assert found.unlabelled_share == 0.0


@pytest.mark.skipif(sys.version_info < (3, 10), reason="cards are written by a newer Python")
@pytest.mark.usefixtures("segmenter")
def test_what_a_precision_keeps_goes_onto_the_card_beside_fp32(root, tmp_path, capsys):
    folder = str(tmp_path / "model")
    shutil.copytree(tiny.FOLDER, folder)
    data = ["--dataset", "camvid", "--root", root, "--split", "test"]
    command = ["dataset", "--model", folder, "--backend", "onnxruntime", "--to-card"] + data
    assert main(command + ["--precision", "int8"]) == 0
    assert "auto does not take it: the card does not compare" in capsys.readouterr().out
    for precision in ("fp32", "int8"):
        assert main(command + ["--precision", precision]) == 0
    printed = capsys.readouterr().out
    full, low = [item for item in read_card(folder).accuracy if item.split == "test"]
    assert (full.computed_in, full.artifact, full.agreement) == ("fp32", "onnx", None)
    assert (low.computed_in, low.artifact, low.frames) == ("int8", "onnx_int8", full.frames)
    classes = []
    for precision in ("fp32", "int8"):
        options = BackendOptions(precision=precision, num_threads=1)
        with open_backend("onnxruntime", tiny.card(), options) as backend:
            images = [item.image_hwc for item in open_dataset("camvid", root, "test")]
            classes.append([backend.run(image[None]).class_map_nhw.copy() for image in images])
    assert low.agreement == pytest.approx(np.equal(*classes).mean(), abs=1e-5)
    assert "int8: fp32's class at %.3f %%" % (100 * low.agreement) in printed
    assert "precision auto may take it: mean IoU" in printed


@pytest.mark.usefixtures("segmenter")
def test_auto_says_what_it_took(root, tmp_path, capsys):
    """And what is in the report is what ran."""
    json_path = str(tmp_path / "scores.json")
    options = ["--backend", "auto", "--precision", "auto", "--device", "cpu"]
    assert main(arguments(root, json_path) + options + ["--engine-dir", str(tmp_path)]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "auto: " in line]
    with open(json_path) as content:
        result = json.load(content)
    assert len(lines) == 1 and lines[0].startswith("backend %s (auto: " % result["backend"])
    assert result["source"]["precision"] == "fp32" and "auto: fp32, " in lines[0]


@pytest.mark.usefixtures("segmenter")
def test_the_command_prints_tables_and_writes_json(root, tmp_path):
    json_path = tmp_path / "new" / "result.json"
    command = [sys.executable, "-m", "segmentation_node.evaluation"]
    shown = subprocess.check_output(
        command + arguments(root, str(json_path)), cwd=PROJECT, universal_newlines=True
    )
    result = json.loads(json_path.read_text())
    assert_counted_by_hand(result)
    origin = {key: result[key] for key in ("model", "dataset", "split", "backend", "device")}
    assert origin == {
        "model": "tiny",
        "dataset": "camvid",
        "split": "test",
        "backend": "onnxruntime",
        "device": "cpu",
    }
    rows = dict(line.rsplit(None, 1) for line in shown.splitlines() if line)
    assert rows["mean IoU"] == "65.00" and rows["sky"] == "60.00" and rows["pole"] == "n/a"
    assert os.listdir(str(json_path.parent)) == ["result.json"], "nothing partial is left"


def break_image(root, name):
    path = os.path.join(root, "test", name)
    with open(path, "r+b") as content:
        content.truncate(40)
    return path


@pytest.mark.usefixtures("segmenter")
def test_a_broken_image_is_named_counted_and_skipped(root, tmp_path, capsys):
    path = break_image(root, "a.png")
    json_path = tmp_path / "result.json"
    assert main(arguments(root, str(json_path))) == 0
    shown = capsys.readouterr()
    assert path in shown.out and "warning: 1 of 2 frames skipped" in shown.err
    result = json.loads(json_path.read_text())
    assert result["frames"] == 1 and result["class_iou"]["car"] == 1.0
    (skipped,) = result["skipped"]
    assert skipped["name"] == "a.png" and path in skipped["reason"]
    assert any("1 of 2 frames" in note for note in result["notes"])
    assert not result["partial"]


@pytest.mark.usefixtures("segmenter")
def test_a_name_that_is_not_utf8_is_spelled_out_in_every_report(root, tmp_path):
    for folder in ("test", "testannot"):
        source = os.path.join(root, folder, "b.png")
        os.rename(source.encode(), source.encode().replace(b"b.png", b"\xff.png"))
    path = break_image(root, os.fsdecode(b"\xff.png"))
    out = [str(tmp_path / name) for name in ("result.json", "result.html")]
    command = [sys.executable, "-m", "segmentation_node.evaluation"]
    shown = subprocess.check_output(
        command + arguments(root, out[0]) + ["--html", out[1]], cwd=PROJECT
    )
    spelled = path.encode("utf-8", "surrogateescape").replace(b"\xff", b"\\udcff")
    with open(out[1], "rb") as page:
        assert spelled in page.read() and spelled in shown
    with open(out[0]) as content:
        assert path in json.load(content)["skipped"][0]["reason"]


class ClosedPipe:
    """A standard output that nobody reads any more."""

    encoding = "utf-8"

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")

    def flush(self):
        pass


@pytest.mark.usefixtures("segmenter")
def test_a_closed_pipe_costs_no_file(root, tmp_path, monkeypatch):
    out = tmp_path / "result.json"
    monkeypatch.setattr(sys, "stdout", ClosedPipe())
    assert main(arguments(root, str(out)) + ["--html", str(tmp_path / "result.html")]) == 1
    monkeypatch.undo()
    assert_counted_by_hand(json.loads(out.read_text()))
    assert (tmp_path / "result.html").read_text().rstrip().endswith("</html>")


@pytest.mark.usefixtures("segmenter")
def test_a_broken_image_fails_a_strict_run(root, tmp_path, capsys):
    path = break_image(root, "b.png")
    json_path = tmp_path / "result.json"
    assert main(arguments(root, str(json_path)) + ["--strict"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: " + path) and error.count("\n") == 1
    assert not json_path.exists()


@pytest.mark.usefixtures("segmenter")
def test_nothing_to_score_is_an_error(root, tmp_path, capsys):
    path = break_image(root, "a.png")
    break_image(root, "b.png")
    assert main(arguments(root, str(tmp_path / "result.json"))) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: none of 2 frames") and path in error
    assert not (tmp_path / "result.json").exists()


# Segments as ever, but says so and waits in its second frame.
WAITS = """
import sys, time
from segmentation_node.evaluation.__main__ import main
from segmentation_node.pipeline import Batch, Segmenter
segment, calls = Segmenter.segment, []
def waiting(self, *args, **kwargs):
    calls.append(1)
    if len(calls) == 2:
        print("waiting", flush=True)
        time.sleep(60)
    return segment(self, *args, **kwargs)
Segmenter.segment = waiting
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.usefixtures("segmenter")
def test_ctrl_c_leaves_a_partial_report(root, tmp_path):
    json_path, html_path = tmp_path / "result.json", tmp_path / "result.html"
    options = arguments(root, str(json_path)) + ["--html", str(html_path)]
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS] + options,
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(signal.SIGINT)
    shown, error = process.communicate()
    assert process.returncode == 130
    assert error == "interrupted: the report is of the frames until then\n"
    result = json.loads(json_path.read_text())
    assert result["partial"] and result["frames"] == 1
    assert result["class_iou"]["sky"] == 12 / 20.0
    assert "note: partial" in shown
    assert "PARTIAL" in html_path.read_text()


@pytest.mark.parametrize(
    "place, said",
    [
        ("file/result.json", "no file can be made"),
        ("folder", "is a folder"),
        ("locked/result.json", "no file can be made"),
        ("locked/new/result.json", "no file can be made"),
    ],
)
def test_a_report_that_cannot_be_written_is_found_out_first(
    place, said, root, tmp_path, capsys, monkeypatch
):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "locked").mkdir(0o555)
    # As for anybody but root, who may write anywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: bool(os.stat(path).st_mode & 0o200))
    for option in ("--json", "--html"):
        given = arguments(root, str(tmp_path / "unused.json"), model="no_such_model")
        assert main(given + [option, str(tmp_path / place)]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        assert said in error and str(tmp_path / place) in error


@pytest.mark.usefixtures("segmenter")
def test_a_full_disk_is_one_line_behind_the_figures(root, tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        assert main(arguments(root, str(tmp_path / "reports" / "result.json"))) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    captured = capsys.readouterr()
    assert "mean IoU" in captured.out
    assert "result.json: cannot be written" in captured.err and captured.err.count("\n") == 1
    assert os.listdir(str(tmp_path / "reports")) == []


@pytest.mark.parametrize(
    "command, option, value, expected",
    [
        ("dataset", "--num-threads", "-3", "0 or more"),
        ("confidence", "--temperature", "1e-9", "from 0.0625 to 16"),
        ("confidence", "--temperature", "1e30", "from 0.0625 to 16"),
        ("confidence", "--temperature", "nan", "from 0.0625 to 16"),
    ],
)
def test_a_number_out_of_its_range_is_a_wrong_command_line(
    command, option, value, expected, capsys
):
    with pytest.raises(SystemExit):
        main([command, "--model", tiny.FOLDER, "--dataset", "camvid", option, value])
    assert "%s is not %s" % (value, expected) in capsys.readouterr().err


def test_a_known_error_is_one_line_and_exit_code_1(root, tmp_path, capsys):
    assert main(arguments(root, str(tmp_path / "result.json"), model="no_such_model")) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1
    assert "no_such_model" in error
    assert not (tmp_path / "result.json").exists()


class Sleepy(Segmenter):
    """Takes long for the frames that it gets at even places."""

    taken = 0

    def segment(self, image_hwc, **options):
        Sleepy.taken += 1
        if Sleepy.taken % 2:
            time.sleep(0.03)
        return super().segment(image_hwc, **options)


def test_images_beside_each_other_come_out_in_order(tmp_path):
    """The later of two is always done first; every figure is that of one after the other."""
    missing = BACKENDS["onnxruntime"].unavailable()
    if missing:
        pytest.skip("NOT RUN: " + missing)
    truths = [tiny.classify(tiny.random_image(index)) for index in range(6)]
    frames = {"%d.png" % i: (tiny.random_image(i + 10), truth) for i, truth in enumerate(truths)}
    tiny.write_camvid(tmp_path, "test", frames)
    dataset = open_dataset("camvid", str(tmp_path), "test")
    with ExitStack() as stack:
        options = BackendOptions(num_threads=1)
        first, *beside = [
            Sleepy(Batch(stack.enter_context(open_backend("onnxruntime", tiny.card(), options))))
            for _ in range(2)
        ]
        alone = evaluate_dataset(first, dataset, with_calibration=True).as_json()
        both = evaluate_dataset(first, dataset, with_calibration=True, beside=beside).as_json()
    for key in ("confusion_matrix", "calibration", "mean_iou", "frames"):
        assert both[key] == alone[key]
    rows = [[(row["name"], row["mean_iou"]) for row in run["per_frame"]] for run in (alone, both)]
    assert rows[0] == rows[1] and len(rows[0]) == 6
    done_s = [row["done_s"] for row in both["per_frame"]]
    assert done_s == sorted(done_s)


@pytest.mark.usefixtures("segmenter")
def test_jobs_change_no_figure_and_the_report_says_how_many(root, tmp_path, capsys):
    results = []
    for jobs in ("1", "3"):
        json_path = str(tmp_path / "scores.json")
        assert main(arguments(root, json_path) + ["--jobs", jobs]) == 0
        with open(json_path) as content:
            results.append(json.load(content))
    assert "note: 3 images at a time" in capsys.readouterr().out
    assert_counted_by_hand(results[1])
    assert results[1]["calibration"] == results[0]["calibration"]
    assert results[1]["source"]["jobs"] == 3 and "jobs" not in results[0]["source"]
    assert results[0]["notes"] == []


@pytest.mark.usefixtures("segmenter")
def test_a_broken_image_between_jobs_is_named_counted_and_skipped(root, tmp_path, capsys):
    path = break_image(root, "a.png")
    json_path = str(tmp_path / "scores.json")
    assert main(arguments(root, json_path) + ["--jobs", "2"]) == 0
    with open(json_path) as content:
        result = json.load(content)
    assert result["frames"] == 1 and result["skipped"][0]["name"] == "a.png"
    assert main(arguments(root, json_path) + ["--jobs", "2", "--strict"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and path in errors[0]


@pytest.mark.usefixtures("segmenter")
def test_jobs_of_a_backend_that_is_one_of_a_process_end_it(root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(BACKENDS["onnxruntime"], "several_at_once", False)
    assert main(arguments(root, str(tmp_path / "scores.json")) + ["--jobs", "2"]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "--jobs 2: backend onnxruntime is one of a process" in errors[0]
    assert [name for name, kind in sorted(BACKENDS.items()) if kind.several_at_once] == [
        "openvino"
    ], "torch sets the threads of the whole process"
