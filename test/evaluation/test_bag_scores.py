"""A bag scores as the data set that it was made of, through the pipeline or by what it recorded."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from core.test_dataset_layouts import LAYOUTS
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from support import drives
from support.core import tiny
from support.core.real_data import PROJECT, folder_of
from support.linear_model import write_model

from segmentation_node.errors import BackendError, ImageError
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.bags import messages, open_bag
from segmentation_node.evaluation.bags.writer import BagWriter
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19
from segmentation_node.pipeline import Segmenter

# What a bag and a data set have in common: not the times, nor what instances give.
FIGURES = [
    "mean_iou", "class_iou", "global_accuracy", "mean_accuracy", "frames", "frames_with_truth",
    "level", "mean_category_iou", "category_iou", "temporal_consistency",
]  # fmt: skip
CLASS_MAP = "/segmentation_node/class_map"


@pytest.fixture(scope="module")
def cityscapes_model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"), (48, 64), "cityscapes19")


def evaluate(tmp_path, *words):
    return drives.evaluate(tmp_path / "scores.json", *words)


def figures(result):
    return {name: result[name] for name in FIGURES}


def assert_bag_equals_data_set(tmp_path, dataset, root, split, model, *options):
    expected = evaluate(
        tmp_path, "dataset", "--model", model, "--dataset", dataset, "--root", root,
        "--split", split, "--no-iiou",
    )  # fmt: skip
    bag = drives.record(tmp_path / "bag", dataset, root, "--split", split, *options)
    found = evaluate(tmp_path, "bag", bag, "--model", model)
    assert figures(found) == figures(expected)
    assert (found["dataset"], found["split"]) == (dataset, split)
    assert expected["frames"] > 0 and expected["mean_iou"] is not None
    per_frame = [
        [frame.get("mean_iou") for frame in result["per_frame"]] for result in (found, expected)
    ]
    assert per_frame[0] == per_frame[1]


@pytest.mark.parametrize(
    "options",
    [["--compression", "zstd"], ["--storage", "sqlite3"], ["--image", "png"]],
    ids=["mcap zstd", "sqlite3", "png"],
)
def test_camvid(options, tmp_path):
    drives.camvid(tmp_path / "data")
    root, model = tmp_path / "data", tiny.FOLDER
    assert_bag_equals_data_set(tmp_path, "camvid", root, "val", model, *options)


def test_frames_of_a_bag_beside_each_other_give_the_same(tmp_path):
    drives.camvid(tmp_path / "data")
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data", "--split", "val")
    expected, found = (
        evaluate(tmp_path, "bag", bag, "--model", tiny.FOLDER, "--jobs", jobs) for jobs in (1, 2)
    )
    for key in (*FIGURES, "calibration"):
        assert found[key] == expected[key], key
    names = [[frame["name"] for frame in result["per_frame"]] for result in (found, expected)]
    assert names[0] == names[1] and expected["calibration"] is not None


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_layout(name, cityscapes_model, tmp_path):
    layout = LAYOUTS[name]
    layout.write(tmp_path / "data")
    assert_bag_equals_data_set(
        tmp_path, layout.dataset, tmp_path / "data", layout.split, cityscapes_model
    )


@pytest.mark.parametrize(
    "dataset, split", [("cityscapes", "train"), ("kitti_semantics", "training")]
)
def test_real_images(dataset, split, cityscapes_model, tmp_path):
    assert_bag_equals_data_set(tmp_path, dataset, folder_of(dataset), split, cityscapes_model)


@pytest.mark.slow
def test_real_camvid_with_the_shipped_model(tmp_path):
    root = folder_of("camvid")
    assert_bag_equals_data_set(tmp_path, "camvid", root, "val", "fast_elu_squeezenet_camvid")


# What a FrameLatency was before it had detections_ms.
OLD_LATENCY = """std_msgs/Header header
float64 queue_ms
float64 convert_ms
float64 preprocess_ms
float64 inference_ms
float64 postprocess_ms
float64 publish_ms
float64 processing_ms
float64 transport_ms
float64 end_to_end_ms
uint64 received
uint64 processed
uint64 dropped
uint64 failed
uint64 queued
uint64 lost
string backend
"""


def old_typestore():
    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg(OLD_LATENCY, messages.FRAME_LATENCY))
    return store


def frame_latency(stamp_ns, index, store=None, backend="onnxruntime"):
    """As the node sends it, with an inference of 10 ms and more."""
    times = dict.fromkeys(
        ["queue", "convert", "preprocess", "postprocess", "publish", "transport"], 0.5
    )
    times.update(inference=10.0 + index, processing=12.5 + index, end_to_end=float("nan"))
    counts = dict.fromkeys(["received", "processed", "dropped", "failed", "queued", "lost"], 0)
    if store is None:
        store, times["detections"] = messages.typestore(), 0.25
    message = store.types[messages.FRAME_LATENCY](
        header=messages.header(stamp_ns, "c"),
        backend=backend,
        **{name + "_ms": value for name, value in times.items()},
        **counts,
    )
    return bytes(store.serialize_cdr(message, messages.FRAME_LATENCY))


def record_predictions(path, pairs, label_set="camvid11", lose=(), broken=(), store=None, empty=()):
    """A bag as a recorder leaves it: class maps of the tiny model, ground truth, label infos.

    Latencies are of the type in ``store``, by default the present one.
    """
    labels = {"camvid11": CAMVID_11, "cityscapes19": CITYSCAPES_19}[label_set]
    with BagWriter(str(path), "sqlite3") as writer:
        for name in (CLASS_MAP, "/ground_truth", *empty):
            writer.add_topic(name, messages.IMAGE)
        for name, found in (("/segmentation_node", labels), ("/ground_truth", CAMVID_11)):
            writer.add_topic(name + "/label_info", messages.LABEL_INFO, latched=True)
            writer.write(name + "/label_info", 1, messages.label_info(found, "test", 1))
        writer.add_topic("/segmentation_node/latency", messages.FRAME_LATENCY)
        for index, (image, ids) in enumerate(pairs):
            stamp_ns = 10**18 + index * 10**8
            truth = np.where(ids == 11, 255, ids).astype(np.uint8)
            writer.write("/ground_truth", stamp_ns, messages.raw_image(truth, stamp_ns, "c"))
            if index not in lose:
                data = messages.raw_image(tiny.classify(image), stamp_ns, "c")
                data = data[:40] if index in broken else data
                writer.write(CLASS_MAP, stamp_ns + 5 * 10**7, data)
                latency = frame_latency(stamp_ns, index, store)
                writer.write("/segmentation_node/latency", stamp_ns + 6 * 10**7, latency)
    return path


def test_recorded_predictions_are_scored_alone(tmp_path):
    pairs = drives.camvid(tmp_path / "data")
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    expected = evaluate(tmp_path, "bag", bag, "--model", tiny.FOLDER)
    found = evaluate(tmp_path, "bag", record_predictions(tmp_path / "recorded", pairs))
    for name in FIGURES[:-1]:
        assert found[name] == expected[name], name
    assert found["temporal_consistency"]["frame_pairs"] == 4
    assert found["source"]["prediction_topic"] == CLASS_MAP
    assert found["stages_ms"]["inference"]["p50"] == 12.0  # of 10, 11, 12, 13, 14
    assert "end_to_end" not in found["stages_ms"]
    assert found["stages_ms"]["detections"]["p50"] == 0.25


def test_a_bag_with_latencies_from_before_boxes_is_still_read(tmp_path):
    pairs = drives.camvid(tmp_path / "data")
    recorded = {
        name: evaluate(tmp_path, "bag", record_predictions(tmp_path / name, pairs, store=store))
        for name, store in (("new", None), ("old", old_typestore()))
    }
    assert not recorded["old"]["skipped"] and not recorded["old"]["lost"]
    expected = dict(recorded["new"]["stages_ms"])
    del expected["detections"]
    assert recorded["old"]["stages_ms"] == expected


@pytest.mark.parametrize("length", range(9))
def test_old_latencies_are_read_whatever_their_alignment(length):
    data = frame_latency(7, 3, old_typestore(), backend="b" * length)
    times = messages.stages_of(data)
    assert (times["inference"], times["processing"]) == (13.0, 15.5)
    assert "detections" not in times
    padded = messages.stages_of(data + bytes(-len(data) % 4))  # as a middleware may hand it over
    assert padded == times


def test_a_latency_that_is_cut_short_is_none():
    with pytest.raises(ImageError):
        messages.stages_of(frame_latency(7, 3, old_typestore())[:-12])


def test_a_camera_without_a_message_hides_no_recorded_frame(tmp_path):
    pairs = drives.camvid(tmp_path / "data", 3)
    bag = record_predictions(tmp_path / "bag", pairs, empty=["/camera/image_raw"])
    result = evaluate(tmp_path, "bag", bag)
    assert (result["frames"], result["skipped"], result["lost"]) == (3, [], [])


def test_a_prediction_that_is_missing_is_named(tmp_path, capsys):
    pairs = drives.camvid(tmp_path / "data")
    result = evaluate(tmp_path, "bag", record_predictions(tmp_path / "bag", pairs, lose=[2]))
    assert result["frames"] == 4 and not result["skipped"]
    (lost,) = result["lost"]
    assert "000002 @ 1000000000.200000000" in lost["name"] and CLASS_MAP in lost["reason"]
    assert "\nlost: %(name)s: %(reason)s\n" % lost in capsys.readouterr().out
    assert main(["bag", str(tmp_path / "bag"), "--strict"]) == 1
    # Across the gap nothing is compared.
    assert result["temporal_consistency"]["frame_pairs"] == 2


def test_a_bag_without_one_scored_frame_fails(tmp_path, capsys):
    """The one class map is broken, the other was not recorded."""
    pairs = drives.camvid(tmp_path / "data", 2)
    bag = record_predictions(tmp_path / "bag", pairs, lose=[1], broken=[0])
    out = tmp_path / "scores.json"
    assert main(["bag", str(bag), "--json", str(out)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: none of 2 frames could be scored; the first: frame 000000 @")
    assert not out.exists()


def test_one_file_for_both_reports_is_refused_before_the_run(tmp_path, monkeypatch, capsys):
    drives.camvid(tmp_path / "data", 1)
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    monkeypatch.setattr(Segmenter, "segment", None)
    (tmp_path / "link").symlink_to(tmp_path)
    both = ["--json", str(tmp_path / "out"), "--html", str(tmp_path / "link" / "out")]
    assert main(["bag", str(bag), "--model", tiny.FOLDER, *both]) == 1
    assert "--json and --html name the same file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_label_sets_that_differ_are_compared_by_category(tmp_path):
    pairs = drives.camvid(tmp_path / "data")
    bag = record_predictions(tmp_path / "bag", pairs, "cityscapes19")
    result = evaluate(tmp_path, "bag", bag)
    assert result["level"] == "category"
    truth = np.concatenate([np.where(ids == 11, 255, ids).ravel() for _, ids in pairs])
    predicted = np.concatenate([tiny.classify(image).ravel() for image, _ in pairs])
    categories = [item.category for item in CAMVID_11.classes]
    right = [
        categories[t] == CITYSCAPES_19.classes[p].category
        for t, p in zip(truth, predicted)
        if t != 255
    ]
    assert result["global_accuracy"] == pytest.approx(np.mean(right), abs=1e-12)


def test_labels_that_nothing_explains_are_asked_for(tmp_path, capsys):
    pairs = drives.camvid(tmp_path / "data")
    bag = tmp_path / "bag"
    with BagWriter(str(bag)) as writer:
        for name in (CLASS_MAP, "/ground_truth"):
            writer.add_topic(name, messages.IMAGE)
            ids = pairs[0][1] % 11
            writer.write(name, 10**18, messages.raw_image(ids, 10**18, "c"))
    assert main(["bag", str(bag)]) == 1
    assert "--labels" in capsys.readouterr().err
    labels = ["--labels", "camvid11"]
    assert main(["bag", str(bag), *labels]) == 1
    assert "--prediction-labels" in capsys.readouterr().err
    result = evaluate(tmp_path, "bag", bag, *labels, "--prediction-labels", "camvid11")
    assert result["global_accuracy"] == 1.0


def test_a_drive_without_labels_gives_temporal_consistency(tmp_path, capsys):
    frames = drives.kitti_raw(tmp_path / "raw")
    bag = drives.record(tmp_path / "bag", "kitti-raw", tmp_path / "raw")
    result = evaluate(tmp_path, "bag", bag, "--model", tiny.FOLDER)
    maps = [tiny.classify(image) for image in frames]
    changed = sum(int((a != b).sum()) for a, b in zip(maps, maps[1:]))
    assert result["temporal_consistency"]["frame_pairs"] == 3
    assert result["temporal_consistency"]["changed_pixels"] == changed
    assert result["frames_with_truth"] == 0
    error = capsys.readouterr().err
    assert "no ground truth; it has /camera/camera_info (" in error


def test_a_drive_without_stamps_goes_by_the_time_of_recording(tmp_path):
    with BagWriter(str(tmp_path / "bag")) as writer:
        writer.add_topic("/camera/image_raw", messages.IMAGE)
        for index, image in enumerate(drives.images(4)):
            time_ns = 10**18 + (index if index < 3 else 50) * 10**8
            writer.write("/camera/image_raw", time_ns, messages.raw_image(image, 0, "c"))
    result = evaluate(tmp_path, "bag", tmp_path / "bag", "--model", tiny.FOLDER)
    assert result["frames"] == 4 and result["temporal_consistency"]["frame_pairs"] == 2


def test_a_sequence_is_scored_where_it_is_labelled(cityscapes_model, tmp_path):
    drives.cityscapes_sequence(tmp_path / "data")
    bag = drives.record(tmp_path / "bag", "cityscapes-sequence", tmp_path / "data")
    result = evaluate(tmp_path, "bag", bag, "--model", cityscapes_model)
    assert (result["frames"], result["frames_with_truth"]) == (60, 2)
    assert result["temporal_consistency"]["frame_pairs"] == 58  # 29 in each snippet
    assert not result["skipped"]


def broken(tmp_path):
    """CamVid's bag of five frames whose second image is cut off."""
    drives.camvid(tmp_path / "data")
    bag = drives.record(tmp_path / "whole", "camvid", tmp_path / "data", "--image", "png")
    sent = drives.plain_messages(bag)
    path = tmp_path / "broken"
    count = 0
    with BagWriter(str(path)) as writer:
        for topic, type_ in sorted({(topic, type_) for topic, type_, _, _ in sent}):
            writer.add_topic(topic, type_)
        for topic, type_, time_ns, data in sent:
            if type_ == messages.COMPRESSED:
                count += 1
                if count == 2:
                    message = messages.deserialize(data, type_)
                    message.data = message.data[:40]
                    data = messages.serialize(message, type_)
            writer.write(topic, time_ns, data)
    return bag, path


def test_a_broken_image_is_skipped_counted_and_named(tmp_path, capsys):
    _, bag = broken(tmp_path)
    result = evaluate(tmp_path, "bag", bag, "--model", tiny.FOLDER)
    assert result["frames"] == 4
    (skipped,) = result["skipped"]
    assert "000001 @ 1000000000.100000000 on /camera/image_raw/compressed" in skipped["reason"]
    assert "1 of 5 frames skipped" in capsys.readouterr().err
    assert main(["bag", str(bag), "--model", tiny.FOLDER, "--strict"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "000001 @" in error


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_bag_that_is_cut_off_is_scored_to_its_end(storage, tmp_path, capsys):
    """The figures are those of the frames that are there, and the report says that it is cut."""
    pairs = drives.camvid(tmp_path / "data", 90)
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data", "--storage", storage)
    result = evaluate(
        tmp_path, "bag", drives.cut(bag, tmp_path / "cut", 0.7), "--model", tiny.FOLDER
    )
    count = result["frames"]
    assert 10 < count < 90
    labelled = result["frames_with_truth"]
    assert count - 1 <= labelled <= count
    truth = np.concatenate([ids.ravel() for _, ids in pairs[:labelled]])
    predicted = np.concatenate([tiny.classify(image).ravel() for image, _ in pairs[:labelled]])
    right = (truth == predicted)[truth != 11].mean()
    assert result["global_accuracy"] == pytest.approx(right, abs=1e-12)
    assert any("cut off" in line for line in result["source"]["bag_problems"])
    assert "cut off" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--model", tiny.FOLDER, "--image-topic", "/rear"], "no image topic /rear"),
        (["--model", tiny.FOLDER, "--image-topic", ""], "no camera image found; --image-topic"),
        ([], "no recorded class map found; --model, or --prediction-topic"),
        (["--model", "nothing"], "nothing"),
    ],
)
def test_a_bag_without_the_topics_lists_what_it_has(arguments, said, tmp_path, capsys):
    drives.camvid(tmp_path / "data", 1)
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    assert main(["bag", str(bag), *arguments]) == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and said in error
    if "topic" in said:
        assert "/ground_truth (sensor_msgs/msg/Image, 1)" in error


@pytest.mark.parametrize(
    "options, named",
    [
        (["--size", "6x8", "--jobs", "2", "--rotation", "90"], "--size, --jobs, --rotation"),
        (["--backend", "torch", "--device", "cpu", "--precision", "int8"], "--backend, --device, "),
        (["--num-threads", "2", "--engine-dir", "x"], "--num-threads, --engine-dir"),
        (["--no-calibration"], "--no-calibration"),
        (["--model", tiny.FOLDER, "--prediction-topic", CLASS_MAP], "--prediction-topic"),
        (["--model", tiny.FOLDER, "--prediction-labels", "camvid11"], "--prediction-labels"),
    ],
)
def test_options_without_an_effect_are_refused(options, named, tmp_path, capsys):
    bag = record_predictions(tmp_path / "bag", drives.camvid(tmp_path / "data", 1))
    assert main(["bag", str(bag), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: " + named) and error.count("\n") == 1


def test_what_is_left_out_of_recorded_class_maps_may_be_told(tmp_path):
    bag = record_predictions(tmp_path / "bag", drives.camvid(tmp_path / "data", 1))
    result = evaluate(tmp_path, "bag", bag, "--roi", 0, 0, 4, 6)
    assert np.sum(result["confusion_matrix"]["pixels"]) <= 24


def test_a_class_map_is_not_its_own_truth(tmp_path, capsys):
    drives.camvid(tmp_path / "data", 1)
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    assert main(["bag", str(bag), "--prediction-topic", "/ground_truth"]) == 1
    error = capsys.readouterr().err
    assert "/ground_truth is both ground truth and prediction" in error and error.count("\n") == 1


def test_the_label_set_comes_from_the_bag(tmp_path):
    drives.camvid(tmp_path / "data", 1)
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    with open_bag(str(Path(bag))) as opened:
        assert opened.label_set_of(opened.choose_topics().truth) is CAMVID_11


def raise_at(monkeypatch, owner, name, call, error):
    """This call of a method fails."""
    original, calls = getattr(owner, name), []

    def method(*arguments, **options):
        calls.append(name)
        if len(calls) == call:
            raise error
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, method)


def test_ctrl_c_leaves_a_valid_partial_report(tmp_path, monkeypatch):
    drives.camvid(tmp_path / "data")
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    raise_at(monkeypatch, Segmenter, "segment", 4, KeyboardInterrupt)
    path = tmp_path / "scores.json"
    arguments = ["bag", str(bag), "--model", tiny.FOLDER, "--json", str(path)]
    assert main(arguments) == 130
    result = json.loads(path.read_text())
    assert result["partial"] and result["frames"] == 3 and result["mean_iou"] is not None


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_a_report_replaces_a_report_and_no_other_file(option, tmp_path, capsys):
    drives.camvid(tmp_path / "data", 2)
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    arguments = ["bag", str(bag), "--model", tiny.FOLDER, option]
    for _ in range(2):
        assert main([*arguments, str(tmp_path / "report")]) == 0
    for path in (bag / "bag.mcap", bag / "metadata.yaml"):
        before = path.read_bytes()
        assert main([*arguments, str(path)]) == 1
        assert "something else is there" in capsys.readouterr().err.splitlines()[-1]
        assert path.read_bytes() == before


@pytest.mark.parametrize("call, frames", [(4, 3), (1, None)])
def test_a_backend_that_fails_leaves_what_was_scored(call, frames, tmp_path, monkeypatch, capsys):
    drives.camvid(tmp_path / "data")
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    capsys.readouterr()
    raise_at(monkeypatch, Segmenter, "segment", call, BackendError("backend x: out of memory"))
    path = tmp_path / "scores.json"
    arguments = ["bag", str(bag), "--model", tiny.FOLDER, "--json", str(path)]
    assert main(arguments) == 1
    assert capsys.readouterr().err.strip().endswith("error: backend x: out of memory")
    assert path.exists() == (frames is not None)
    if frames:
        result = json.loads(path.read_text())
        assert result["partial"] and result["frames"] == frames


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_ctrl_c_leaves_no_half_a_bag(storage, tmp_path, monkeypatch):
    drives.camvid(tmp_path / "data")
    raise_at(monkeypatch, BagWriter, "write", 5, KeyboardInterrupt)
    arguments = ["--dataset", "camvid", "--root", tmp_path / "data", "--storage", storage]
    assert drives.make_bag(*arguments, "--output", tmp_path / "out" / "bag") == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_without_rosbags_the_commands_say_what_is_missing(tmp_path):
    program = (
        "import sys; sys.modules['rosbags'] = None\n"
        "from segmentation_node.evaluation.__main__ import main\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "bag", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: bags need rosbags")
