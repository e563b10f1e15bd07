"""make-bag on every layout, read back with plain tools; what it refuses, and what it costs."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from core.test_dataset_layouts import LAYOUTS, TRAIN_IDS
from support import drives
from support.core import tiny
from support.core.real_data import PROJECT, folder_of

from segmentation_node.evaluation.bags import messages

IMAGE, TRUTH, INFO = "/camera/image_raw", "/ground_truth", "/camera/camera_info"


def by_topic(bag):
    found = {}
    for topic, _, time_ns, data in drives.plain_messages(bag):
        found.setdefault(topic, []).append((time_ns, data))
    return found


def stamps(bag, topic=IMAGE):
    return [time_ns for time_ns, _ in by_topic(bag)[topic]]


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_labelled_layout_gives_image_and_train_ids(name, tmp_path):
    layout = LAYOUTS[name]
    layout.write(tmp_path / "data")
    options = ["--split", layout.split]
    bag = drives.record(tmp_path / "bag", layout.dataset, tmp_path / "data", *options)
    found = by_topic(bag)
    ((time_ns, truth),) = found[TRUTH]
    ((_, image),) = found[IMAGE]
    np.testing.assert_array_equal(messages.ids_of(truth, messages.IMAGE), TRAIN_IDS)
    assert messages.header_of(truth) == messages.header_of(image)
    assert messages.header_of(image).stamp_ns == time_ns
    assert drives.metadata(bag)["custom_data"]["segmentation_node.dataset"] == layout.dataset


def test_hyphens_do_for_underscores_and_the_usual_split_is_taken(tmp_path):
    LAYOUTS["kitti_semantics train"].write(tmp_path / "data")
    assert len(by_topic(drives.record(tmp_path / "a", "kitti-semantics", tmp_path / "data"))) == 3


@pytest.mark.parametrize("root", ["", "2011_09_26", "2011_09_26/2011_09_26_drive_0001_sync"])
def test_kitti_raw_keeps_its_times_and_calibration(root, tmp_path):
    drives.kitti_raw(tmp_path / "raw")
    bag = drives.record(tmp_path / "bag", "kitti-raw", tmp_path / "raw" / root)
    # 2011-09-26 13:02:25 as UTC.
    assert stamps(bag) == [1317042145064389445 + 100000001 * index for index in range(4)]
    assert stamps(bag, INFO) == stamps(bag)
    from rclpy.serialization import deserialize_message
    from sensor_msgs.msg import CameraInfo

    info = deserialize_message(by_topic(bag)[INFO][0][1], CameraInfo)
    assert (info.width, info.height) == (8, 6)
    assert info.header.frame_id == "image_02"
    assert info.distortion_model == "plumb_bob" and list(info.d) == [0.0] * 5
    assert list(info.k) == [721.5377, 0, 609.5593, 0, 721.5377, 172.854, 0, 0, 1]
    assert list(info.r) == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert list(info.p) == [
        721.5377, 0, 609.5593, 44.85728, 0, 721.5377, 172.854, 0.2163791, 0, 0, 1, 0.002745884,
    ]  # fmt: skip


def test_kitti_raw_without_calibration_says_so(tmp_path, capsys):
    drives.kitti_raw(tmp_path / "raw", calibrated=False)
    bag = drives.record(tmp_path / "bag", "kitti-raw", tmp_path / "raw")
    assert set(by_topic(bag)) == {IMAGE}
    assert (
        "calib_cam_to_cam.txt: no such file; the bag gets no camera_info" in capsys.readouterr().out
    )


def test_calibration_of_another_image_size_is_not_used(tmp_path, capsys):
    drives.kitti_raw(tmp_path / "raw")
    drives.kitti_raw(tmp_path / "raw", size=(4, 4), calibrated=False)
    bag = drives.record(tmp_path / "bag", "kitti-raw", tmp_path / "raw")
    assert set(by_topic(bag)) == {IMAGE}
    assert "8x6" in capsys.readouterr().out


def test_the_split_chooses_among_drives(tmp_path, capsys):
    drives.kitti_raw(tmp_path / "raw")
    drives.kitti_raw(tmp_path / "raw", 2, drive="2011_09_26_drive_0002_sync")
    arguments = ["--dataset", "kitti-raw", "--root", tmp_path / "raw", "--output"]
    assert drives.make_bag(*arguments, tmp_path / "bag") == 1
    assert "2011_09_26_drive_0001_sync, 2011_09_26_drive_0002_sync" in capsys.readouterr().err
    chosen = ["--split", "2011_09_26_drive_0002_sync"]
    assert drives.make_bag(*arguments, tmp_path / "bag", *chosen) == 0
    assert len(stamps(tmp_path / "bag")) == 2


def test_a_rate_for_data_with_times_is_refused(tmp_path, capsys):
    drives.kitti_raw(tmp_path / "raw")
    arguments = ["--dataset", "kitti-raw", "--root", tmp_path / "raw", "--rate", "5"]
    assert drives.make_bag(*arguments, "--output", tmp_path / "bag") == 1
    assert "leave --rate out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "second, said",
    [
        ([], "frame 1 but timestamps.txt has 1 lines"),
        (["2011-09-26 13:02:25.5"], "is not after that of the frame before"),
    ],
)
def test_a_frame_without_a_time_is_left_out_and_named(second, said, tmp_path, capsys):
    drives.kitti_raw(tmp_path / "raw", 2)
    (path,) = Path(tmp_path / "raw").rglob("timestamps.txt")
    path.write_text("\n".join(["2011-09-26 13:02:25.5", *second]))
    bag = drives.record(tmp_path / "bag", "kitti-raw", tmp_path / "raw")
    assert len(stamps(bag)) == 1
    (warning,) = capsys.readouterr().err.strip().splitlines()
    assert warning.startswith("warning: left out: ") and said in warning


def test_a_time_that_is_none_is_an_error(tmp_path, capsys):
    drives.kitti_raw(tmp_path / "raw", 2)
    (path,) = Path(tmp_path / "raw").rglob("timestamps.txt")
    path.write_text("2011-09-26 13:02:25.5\nnoon")
    arguments = ["--dataset", "kitti-raw", "--root", tmp_path / "raw"]
    assert drives.make_bag(*arguments, "--output", tmp_path / "bag") == 1
    error = capsys.readouterr().err.strip()
    assert "\n" not in error and "line 2" in error
    assert not (tmp_path / "bag").exists()


def test_cityscapes_sequences_have_truth_at_their_twentieth_frame(tmp_path):
    written = drives.cityscapes_sequence(tmp_path / "data")
    found = by_topic(drives.record(tmp_path / "bag", "cityscapes-sequence", tmp_path / "data"))
    assert len(found[IMAGE]) == 60 and len(found[TRUTH]) == 2
    times = [time_ns for time_ns, _ in found[IMAGE]]
    steps = np.diff(times)
    assert set(np.delete(steps, 29)) <= {58823529, 58823530}  # 1/17 s
    assert steps[29] == 2 * 10**9  # between the snippets
    assert [time_ns for time_ns, _ in found[TRUTH]] == [times[19], times[49]]
    labels = [labels for _, labels in written.values() if labels is not None]
    expected = np.select([labels[0] == 7, labels[0] == 8, labels[0] == 26], [0, 1, 13], 255)
    np.testing.assert_array_equal(messages.ids_of(found[TRUTH][0][1], messages.IMAGE), expected)


def test_snippets_without_labels_are_recorded_with_a_note(tmp_path, capsys):
    drives.cityscapes_sequence(tmp_path / "data", snippets=[("bonn", 0, 0)], length=3)
    bag = drives.record(tmp_path / "bag", "cityscapes-sequence", tmp_path / "data")
    assert len(by_topic(bag)[IMAGE]) == 3
    assert "no labels of these frames" in capsys.readouterr().out


def test_a_folder_of_images_at_a_rate(tmp_path):
    for index, image in enumerate(drives.images(3)):
        drives.write(tmp_path / "data" / ("b%d.png" % (2 - index)), image)
    bag = drives.record(tmp_path / "bag", "images", tmp_path / "data", "--rate", "4")
    assert np.diff(stamps(bag)).tolist() == [250000000] * 2
    pixels = [messages.image_of(data, messages.IMAGE) for _, data in by_topic(bag)[IMAGE]]
    np.testing.assert_array_equal(pixels, drives.images(3)[::-1])


def test_a_video_at_its_own_rate(tmp_path):
    path = tmp_path / "drive.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (64, 48))
    for image in drives.images(5, (48, 64)):
        video.write(image)
    video.release()
    bag = drives.record(tmp_path / "bag", "video", path)
    assert np.diff(stamps(bag)).tolist() == [40000000] * 4


@pytest.mark.parametrize("form, largest", [("png", 0), ("jpeg", 40)])
def test_compressed_images(form, largest, tmp_path):
    root = tmp_path / "data"
    image = cv2.resize(tiny.random_image(1, (3, 4)), (64, 48), interpolation=cv2.INTER_CUBIC)
    drives.write(root / "a.png", image)
    options = ["--image", form, "--topic", "/front/image"]
    found = by_topic(drives.record(tmp_path / "bag", "images", root, *options))
    assert set(found) == {"/front/image/compressed"}
    ((_, data),) = found["/front/image/compressed"]
    pixels = messages.image_of(data, messages.COMPRESSED)
    assert np.abs(pixels.astype(int) - image).max() <= largest


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_broken_frame_is_left_out_and_named_and_no_frame_leaves_no_bag(storage, tmp_path, capsys):
    drives.camvid(tmp_path / "data")
    paths = sorted((tmp_path / "data" / "val").glob("*.png"))
    paths[3].write_bytes(paths[3].read_bytes()[:50])
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data", "--storage", storage)
    assert len(stamps(bag)) == 4
    assert "warning: left out: %s" % paths[3] in capsys.readouterr().err
    for path in paths:
        path.write_bytes(path.read_bytes()[:50])
    arguments = ["--dataset", "camvid", "--root", tmp_path / "data", "--storage", storage]
    assert drives.make_bag(*arguments, "--output", tmp_path / "out" / "bag") == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and str(paths[0]) in error
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bag_is_replaced_only_when_told(tmp_path, capsys):
    drives.camvid(tmp_path / "data", 2)
    bag = drives.record(tmp_path / "bag", "camvid", tmp_path / "data")
    before = (bag / "bag.mcap").read_bytes()
    arguments = ["--dataset", "camvid", "--root", tmp_path / "data", "--output", bag]
    assert drives.make_bag(*arguments) == 1
    assert "--force" in capsys.readouterr().err
    assert (bag / "bag.mcap").read_bytes() == before
    assert drives.make_bag(*arguments, "--force", "--storage", "sqlite3") == 0
    assert sorted(path.name for path in bag.iterdir()) == ["bag.db3", "metadata.yaml"]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_force_deletes_nothing_that_make_bag_did_not_write(tmp_path, capsys):
    drives.write(tmp_path / "imgs" / "1.png", drives.images(1)[0])
    arguments = ["--dataset", "images", "--root", tmp_path / "imgs", "--force"]
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "imgs")
    own = drives.record(tmp_path / "own", "images", tmp_path / "imgs")
    recorded = drives.record(tmp_path / "recorded", "images", tmp_path / "imgs")
    (own / "more.txt").write_text("mine")
    text = (recorded / "metadata.yaml").read_text()
    (recorded / "metadata.yaml").write_text(text.replace("segmentation_node.dataset", "by"))
    before = contents(tmp_path)
    for name, said in (
        ("notes", "holds notes.txt"),
        ("own", "holds more.txt"),
        ("recorded", "its metadata.yaml is missing or another's"),
        ("file", "is a file"),
        ("imgs", "is read"),
        ("link", "is read"),
        (".", "is read"),
    ):
        assert drives.make_bag(*arguments, "--output", tmp_path / name) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ") and said in error, error
        assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "options, said",
    [
        (["--root", "nowhere"], "nowhere/val: no such folder"),
        (["--storage", "sqlite3", "--compression", "zstd"], "choose mcap"),
        (["--topic", "/a b"], "no topic name"),
        (["--topic", "/ground_truth"], "two topics"),
        (["--split", "tset"], "unknown split 'tset'"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(options, said, tmp_path, capsys):
    drives.camvid(tmp_path / "data", 1)
    arguments = ["--dataset", "camvid", "--root", tmp_path / "data", "--output", tmp_path / "bag"]
    assert drives.make_bag(*arguments, *options) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and "\n" not in error
    assert not (tmp_path / "bag").exists()


MEMORY = """
import resource, sys
import numpy as np
from segmentation_node.evaluation.bags import open_bag
from segmentation_node.evaluation.bags.record import Recording, record
from segmentation_node.evaluation.bags.writer import BagWriter
from segmentation_node.evaluation.datasets.drive import Drive
from segmentation_node.evaluation.frame import Frame

class Long(Drive):
    def __init__(self, length):
        self.length = length
        self.noise = np.random.RandomState(1).randint(0, 256, (360, 640, 3)).astype(np.uint8)

    def frames(self):
        for index in range(self.length):
            yield Frame(str(index), np.roll(self.noise, index), position=("", index))

for length in (20, 200):
    with BagWriter(sys.argv[1] + str(length), sys.argv[2]) as writer:
        record(Long(length), writer, Recording("long"))
    with open_bag(sys.argv[1] + str(length)) as bag:
        assert sum(1 for frame in bag.frames()) == length
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_memory_does_not_grow_with_the_drive(storage, tmp_path):
    """Written and read, 124 MB more of images take less than 16 MB more of memory."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "bag"), storage]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    small_kb, large_kb = (int(line) for line in done.stdout.split())
    assert large_kb - small_kb < 16000


def test_the_real_kitti_drive(tmp_path):
    root = folder_of("kitti_raw")
    bag = drives.record(tmp_path / "bag", "kitti-raw", root, "--compression", "zstd")
    (times,) = Path(root).rglob("timestamps.txt")
    found = by_topic(bag)[IMAGE]
    assert len(found) == len(times.read_text().split("\n")) - 1 == 4
    for (_, data), path in zip(found, sorted(times.parent.glob("data/*.png"))):
        expected = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
        np.testing.assert_array_equal(messages.image_of(data, messages.IMAGE), expected)
