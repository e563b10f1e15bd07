"""Files as people have them: hidden ones, numbers without zeros, broken pictures, lists, loops."""

import os
import shutil
import struct

import cv2
import numpy as np
import pytest
from support.core import tiny

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import open_dataset, open_drive
from segmentation_node.evaluation.datasets.base import read_ids, read_image
from segmentation_node.evaluation.datasets.files import files_below, in_order, names_in
from segmentation_node.evaluation.frame import Frame, Problem

PICTURE = cv2.resize(np.random.RandomState(0).randint(0, 256, (5, 6, 3)).astype(np.uint8), (64, 48))


def write(path, pixels=PICTURE, share=1.0):
    """An encoded picture, or that share of its bytes."""
    found, data = cv2.imencode(os.path.splitext(str(path))[1], pixels)
    assert found
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes()[: int(len(data) * share)])


def drive(root, name="images"):
    found = open_drive(name, str(root), "")
    frames = list(found.frames())
    return (
        found,
        [f.name for f in frames if isinstance(f, Frame)],
        [str(f) for f in frames if isinstance(f, Problem)],
    )


def test_numbers_in_names_count_by_their_value():
    names = ["frame%d.jpg" % number for number in range(1, 13)]
    assert in_order(reversed(names)) == names
    assert in_order(["frame_10000", "frame_9999", "b2a10", "b2a9"]) == [
        "b2a9", "b2a10", "frame_9999", "frame_10000"
    ]  # fmt: skip
    assert in_order(["7", "007", "a"]) == ["007", "7", "a"]


def test_a_folder_of_pictures_in_natural_order_and_every_format(tmp_path):
    for number, ending in enumerate(["png", "tif", "webp", "JPG", "bmp"], 7):
        write(tmp_path / ("x%d.%s" % (number, ending)))
        (tmp_path / ("._x%d.%s" % (number, ending))).write_bytes(b"\0\5\x16\7")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "more.png").mkdir()
    found, names, problems = drive(tmp_path)
    assert names == ["x7.png", "x8.tif", "x9.webp", "x10.JPG", "x11.bmp"] and problems == []
    (note,) = found.notes
    assert "more.png" in note and "notes.txt" in note and "(2)" in note


@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "bmp", "webp"])
def test_a_broken_picture_is_named_and_the_rest_is_read(tmp_path, ending):
    for number in range(4):
        write(tmp_path / ("%d.%s" % (number, ending)), share=0.5 if number == 2 else 1.0)
    _, names, problems = drive(tmp_path)
    assert len(names) == 3 and len(problems) == 1
    assert "2.%s" % ending in problems[0] and "cut off" in problems[0]


def test_a_link_that_leads_back_is_followed_once(tmp_path):
    write(tmp_path / "a" / "1.png")
    os.symlink(".", str(tmp_path / "loop"))
    os.symlink("..", str(tmp_path / "a" / "up"))
    assert sorted(files_below(str(tmp_path))) == ["a/1.png"]
    outside = tmp_path.parent / (tmp_path.name + "_outside")
    write(outside / "2.png")
    os.symlink(str(outside), str(tmp_path / "linked"))
    assert sorted(files_below(str(tmp_path))) == ["a/1.png", "linked/2.png"]
    assert names_in(str(tmp_path)) == ["a", "linked", "loop"]


def test_what_is_neither_folder_nor_file_is_listed_and_refused(tmp_path):
    os.symlink("/annex/1", str(tmp_path / "1.png"))
    os.mkfifo(str(tmp_path / "2.png"))
    assert sorted(files_below(str(tmp_path))) == ["1.png", "2.png"]
    for name, found in (("1.png", "a link to /annex/1"), ("2.png", "no regular file")):
        with pytest.raises(DatasetError) as caught:
            read_image(str(tmp_path / name))
        tiny.assert_one_line(caught, tmp_path / name, found)


@pytest.mark.parametrize(
    "line",
    [
        "{root}/val/{file} {root}/valannot/{file}\n",
        "/SegNet/CamVid/val/{file} /SegNet/CamVid/valannot/{file}\n",
        "{stem}\n",
        "{file}\n",
        "C:\\My CamVid\\val\\{file}\r\n",
    ],
)
def test_split_lists_as_they_are_written(tmp_path, line):
    root = tmp_path / "My Data #1"
    root.mkdir()
    image, labels = tiny.street() if hasattr(tiny, "street") else (PICTURE, None)
    labels = np.zeros(image.shape[:2], np.uint8) if labels is None else labels
    lines = []
    for stem in ("0001TP_1", "0001TP_2", "0001TP_9"):
        if stem[-1] != "9":
            write(root / "val" / (stem + ".png"), image)
            write(root / "valannot" / (stem + ".png"), labels)
        lines.append(line.format(root=root, file=stem + ".png", stem=stem))
    (root / "val.txt").write_bytes("".join(lines).encode("utf-8"))
    dataset = open_dataset("camvid", str(root), "val")
    assert len(dataset) == 3 and dataset[1].name == "0001TP_2.png"
    with pytest.raises(DatasetError) as caught:
        dataset[2]
    assert "val.txt, line 3" in str(caught.value) and "\n" not in str(caught.value)


def test_labels_that_lost_their_ids_are_refused(tmp_path):
    ids = np.zeros((48, 64), np.uint8)
    write(tmp_path / "x.jpg", ids)
    with pytest.raises(DatasetError, match="x.jpg: a JPEG: its compression changes ids"):
        read_ids(str(tmp_path / "x.jpg"), PICTURE, np.uint8)
    (tmp_path / "x.tif").write_bytes(tiff_of_jpeg(ids))
    with pytest.raises(DatasetError, match="x.tif: a TIFF: its compression changes ids"):
        read_ids(str(tmp_path / "x.tif"), PICTURE, np.uint8)


def tiff_of_jpeg(pixels_hw):
    """A TIFF whose one strip is a JPEG, as tag 259 says."""
    height, width = pixels_hw.shape
    jpeg = cv2.imencode(".jpg", pixels_hw)[1].tobytes()
    tags = [(256, width), (257, height), (258, 8), (259, 7), (262, 1), (273, 134), (277, 1)]
    tags += [(278, height), (279, len(jpeg))]
    packed = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + packed + bytes(4 + 12) + jpeg


def test_a_picture_of_several_is_a_problem_and_the_others_come(tmp_path):
    write(tmp_path / "a.tif")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (entries,) = struct.unpack_from("<H", data, directory)
    struct.pack_into("<I", data, directory + 2 + 12 * entries, len(data))
    data += struct.pack("<HHHIII", 1, 256, 4, 1, 1, 0)
    (tmp_path / "b.tif").write_bytes(bytes(data))
    write(tmp_path / "c.png")
    _, names, problems = drive(tmp_path)
    assert names == ["a.tif", "c.png"]
    (problem,) = problems
    assert "b.tif: a TIFF that holds 2 pictures; expected one" in problem


def test_what_is_no_file_is_one_line(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(DatasetError) as caught:
            read_image(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def kitti(tmp_path, lines, frames):
    camera = tmp_path / "2011_09_26" / "2011_09_26_drive_0009_sync" / "image_02"
    for number in frames:
        write(camera / "data" / ("%010d.png" % number))
    (camera / "timestamps.txt").write_text("\n".join(lines) + "\n")
    return drive(tmp_path, "kitti_raw")


def test_an_empty_line_of_kittis_times_is_that_of_a_lost_frame(tmp_path):
    times = ["2011-09-26 13:04:32.%d00000000" % number for number in range(4)]
    times[2] = ""
    found, names, problems = kitti(tmp_path, times, [0, 1, 3])
    assert [name[-1] for name in names] == ["0", "1", "3"] and problems == []
    stamps = [frame.stamp_ns for frame in found.frames()]
    assert np.diff(stamps).tolist() == [10**8, 2 * 10**8]
    shutil.rmtree(str(tmp_path / "2011_09_26"))
    _, names, problems = kitti(tmp_path, times, [0, 1, 2, 3])
    assert len(names) == 3 and "line 3, is empty" in problems[0]
