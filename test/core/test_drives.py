"""Drives that are not data sets of labelled samples: their frames, times and what they refuse."""

import os

import numpy as np
import pytest
from support.core import tiny
from support.core.tiny import write

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import DRIVES, open_drive
from segmentation_node.evaluation.datasets.drive import FrameClock
from segmentation_node.evaluation.frame import Frame
from segmentation_node.labels import CITYSCAPES_19

CALIBRATION = "S_rect_02: 8.0e+00 6.0e+00\nP_rect_02: 7 0 4 1 0 7 3 2 0 0 1 3\n"


def kitti(root, numbers=(0, 1), drive="2011_09_26_drive_0001_sync"):
    folder = root / "2011_09_26" / drive / "image_02"
    for number in numbers:
        write(folder / "data" / ("%010d.png" % number), tiny.random_image(number))
    lines = ["2011-09-26 13:02:%02d.123456789" % number for number in range(max(numbers) + 1)]
    (folder / "timestamps.txt").write_text("\n".join(lines) + "\n")
    return folder


def snippet(root, keys, labelled=()):
    for number, key in enumerate(keys):
        write(
            root / "leftImg8bit_sequence" / "val" / (key + "_leftImg8bit.png"),
            tiny.random_image(number),
        )
    for key in labelled:
        ids = np.full(tiny.SIZE, 26, np.uint8)
        write(root / "gtFine" / "val" / (key + "_gtFine_labelIds.png"), ids)


def test_every_drive_is_known_by_name():
    assert set(DRIVES) == {"cityscapes_sequence", "images", "kitti_raw", "video"}
    with pytest.raises(DatasetError, match="unknown data set 'kitty'; known: camvid"):
        open_drive("kitty", "", "")


def test_a_data_set_is_a_drive_of_its_usual_split(tmp_path):
    ids = np.zeros(tiny.SIZE, np.uint8)
    tiny.write_camvid(tmp_path, "val", {"a.png": (tiny.random_image(0), ids)})
    drive = open_drive("camvid", str(tmp_path), "")
    (frame,) = drive.frames()
    assert (drive.split, drive.length, frame.name, frame.stamp_ns) == ("val", 1, "a.png", None)
    assert frame.position is None and (frame.truth_hw == 0).all()


def test_kitti_frames_take_the_line_of_their_number(tmp_path):
    kitti(tmp_path, (1, 3))
    drive = open_drive("kitti_raw", str(tmp_path), "")
    frames = list(drive.frames())
    assert drive.split == "2011_09_26_drive_0001_sync" and drive.label_set is None
    # 13:02 UTC on that day, and 13:02:01 and :03.
    second_ns = 10**9
    base_ns = 1317042120 * second_ns + 123456789
    assert [frame.stamp_ns for frame in frames] == [base_ns + second_ns, base_ns + 3 * second_ns]
    assert [frame.position[1] for frame in frames] == [1, 3]
    np.testing.assert_array_equal(frames[1].image_hwc, tiny.random_image(3))
    assert frames[0].truth_hw is None


def test_kitti_calibration_is_that_of_the_rectified_camera(tmp_path):
    kitti(tmp_path)
    path = tmp_path / "2011_09_26" / "calib_cam_to_cam.txt"
    path.write_text("calib_time: 09-Jan-2012 13:57:47\n" + CALIBRATION)
    found = open_drive("kitti_raw", str(tmp_path), "").calibration
    assert (found.width, found.height) == (8, 6)
    assert found.projection == (7, 0, 4, 1, 0, 7, 3, 2, 0, 0, 1, 3)
    path.write_text("P_rect_02: 7 x\n")
    with pytest.raises(DatasetError, match="S_rect_02 with 2 numbers"):
        open_drive("kitti_raw", str(tmp_path), "")


def test_kitti_frames_in_any_format_and_times_without_one(tmp_path):
    folder = kitti(tmp_path, (0, 1, 2, 7))
    data = folder / "data"
    (data / "0000000001.png").rename(data / "0000000001.PNG")
    write(data / "0000000003.jpeg", tiny.random_image(3))
    write(data / "overview.png", tiny.random_image(3))
    (data / "README.txt").write_text("x")
    path = tmp_path / "2011_09_26" / "calib_cam_to_cam.txt"
    path.write_text(CALIBRATION, encoding="utf-8-sig")
    times = folder / "timestamps.txt"
    times.write_text(times.read_text(), encoding="utf-8-sig")
    drive = open_drive("kitti_raw", str(tmp_path), "")
    assert [frame.position[1] for frame in drive.frames()] == [0, 1, 2, 3, 7]
    assert drive.calibration is not None
    assert drive.notes == (
        "%s: left out, no pictures (1): README.txt" % data,
        "%s: left out, not called by a frame's number (1): overview" % data,
        "%s: 3 of its 8 lines have no image in %s, the first that of 0000000004" % (times, data),
    )


@pytest.mark.parametrize("missing", ["root", "drive", "images", "times"])
def test_what_a_kitti_drive_lacks_is_named(missing, tmp_path):
    folder = kitti(tmp_path)
    root = tmp_path
    if missing == "root":
        root = tmp_path / "elsewhere"
    elif missing == "drive":
        folder.rename(folder.parent / "image_03")
    elif missing == "images":
        for path in (folder / "data").iterdir():
            path.unlink()
    else:
        (folder / "timestamps.txt").unlink()
    with pytest.raises(DatasetError) as caught:
        open_drive("kitti_raw", str(root), "")
    tiny.assert_one_line(caught, "KITTI's raw layout")


def test_snippets_end_where_numbers_do(tmp_path):
    keys = ["bonn/bonn_000000_%06d" % number for number in (10, 11, 12, 40, 41)]
    snippet(tmp_path, keys + ["bonn/bonn_000001_000042"], labelled=[keys[1]])
    drive = open_drive("cityscapes_sequence", str(tmp_path), "")
    frames = list(drive.frames())
    assert drive.label_set is CITYSCAPES_19 and drive.rate_hz == 17.0
    assert [frame.position for frame in frames] == [
        (keys[0], 10), (keys[0], 11), (keys[0], 12), (keys[3], 40), (keys[3], 41),
        ("bonn/bonn_000001_000042", 42),
    ]  # fmt: skip
    labelled = [frame.truth_hw is not None for frame in frames]
    assert labelled == [False, True, False, False, False, False]
    assert (frames[1].truth_hw == 13).all()


def test_labels_whose_frames_are_absent_are_noted(tmp_path):
    snippet(tmp_path, ["ulm/ulm_000000_000019"], ["ulm/ulm_000000_000019", "ulm/ulm_000001_000019"])
    (note,) = open_drive("cityscapes_sequence", str(tmp_path), "").notes
    assert "1 of its 2 label files" in note


def test_a_snippets_endings_and_what_else_there_is(tmp_path):
    key = "ulm/ulm_000000_000019"
    snippet(tmp_path, [key, "ulm/ulm_000000_000020"], [key])
    for folder, ending in (("leftImg8bit_sequence", "leftImg8bit"), ("gtFine", "gtFine_labelIds")):
        path = tmp_path / folder / "val" / ("%s_%s.png" % (key, ending))
        path.rename(path.with_suffix(".PNG"))
    (tmp_path / "leftImg8bit_sequence" / "val" / "ulm" / "README.txt").write_text("x")
    drive = open_drive("cityscapes_sequence", str(tmp_path), "")
    assert [frame.truth_hw is not None for frame in drive.frames()] == [True, False]
    (note,) = drive.notes
    assert note.endswith("left out, no files *_leftImg8bit.png (1): ulm/README.txt")


@pytest.mark.parametrize("name", ["images", "video", "cityscapes_sequence"])
def test_nothing_to_read_is_said(name, tmp_path):
    (tmp_path / "leftImg8bit_sequence" / "val").mkdir(parents=True)
    with pytest.raises(DatasetError) as caught:
        open_drive(name, str(tmp_path), "")
    tiny.assert_one_line(caught, str(tmp_path))


def test_a_file_that_is_no_video_is_named(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"no video")
    with pytest.raises(DatasetError, match="a.mp4: not a video"):
        open_drive("video", str(path), "")


def test_images_come_in_the_order_of_their_names(tmp_path):
    for name in ("b.png", "a.JPG", "c.bmp"):
        write(tmp_path / "sub" / name.lower(), tiny.random_image(len(name)))
    os.rename(str(tmp_path / "sub" / "a.jpg"), str(tmp_path / "sub" / "a.JPG"))
    (tmp_path / "sub" / "notes.txt").write_text("x")
    drive = open_drive("images", str(tmp_path), "sub")
    assert [frame.name for frame in drive.frames()] == ["a.JPG", "b.png", "c.bmp"]
    assert drive.length == 3


def stamps(positions, rate_hz=10.0):
    clock = FrameClock(rate_hz, 5 * 10**9)
    image = tiny.random_image(0)
    return [clock.stamp_ns(Frame("", image, position=position)) for position in positions]


def test_a_clock_keeps_the_gaps_within_a_sequence():
    found = stamps([("a", 7), ("a", 8), ("a", 11), ("b", 0), ("b", 1)])
    tenth_ns = 10**8
    end_ns = 5 * 10**9 + 4 * tenth_ns
    assert found == [
        5 * 10 ** 9, 5 * 10 ** 9 + tenth_ns, end_ns, end_ns + 20 * tenth_ns,
        end_ns + 21 * tenth_ns,
    ]  # fmt: skip


def test_a_clock_counts_single_images_and_does_not_drift():
    found = stamps([None] * 100001, rate_hz=3.0)
    assert found[:2] == [5 * 10**9, 5 * 10**9 + 333333333]
    assert found[3 * 30000] == 5 * 10**9 + 30000 * 10**9


def test_the_datas_own_stamp_counts():
    clock = FrameClock(10.0, 0)
    assert clock.stamp_ns(Frame("", tiny.random_image(0), stamp_ns=17)) == 17


def step(root, sequence, frames):
    for number in range(frames):
        name = "%s/%06d.png" % (sequence, number)
        write(root / "training" / "image_02" / name, tiny.random_image(number))
        panoptic = np.zeros(tiny.SIZE + (3,), np.uint8)
        write(root / "panoptic_maps" / "val" / name, panoptic)


def test_one_sequence_alone(tmp_path):
    step(tmp_path, "0002", 2)
    step(tmp_path, "0006", 3)
    assert open_drive("kitti_step", str(tmp_path), "").length == 5
    drive = open_drive("kitti_step", str(tmp_path), "val", "0006")
    assert [frame.position for frame in drive.frames()] == [("0006", n) for n in range(3)]
    with pytest.raises(DatasetError, match="no sequence '0007'; the split has 0002, 0006"):
        open_drive("kitti_step", str(tmp_path), "val", "0007")
    with pytest.raises(DatasetError, match="kitti_raw has no sequences"):
        open_drive("kitti_raw", str(tmp_path), "", "0006")
