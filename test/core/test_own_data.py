"""Data of one's own: the data sets ``folder`` and ``voc``, and what ``check-data`` says of them."""

import json
import os
import shutil
import struct
import zlib

import cv2
import numpy as np
import pytest
from support.core.tiny import assert_one_line, random_image

from segmentation_node.errors import SegmentationError
from segmentation_node.evaluation.__main__ import main
from segmentation_node.evaluation.commands.check_data import splits_of
from segmentation_node.evaluation.datasets import open_dataset, open_drive
from segmentation_node.evaluation.frame import Problem
from segmentation_node.labels import LABEL_SETS, read_label_set
from segmentation_node.pictures import decode_as_stored

YARD = """
name: yard
ignored_ids: [255]
classes:
  - {name: ground, id: 7, color: [200, 10, 20]}
  - {name: rack, id: 900, color: [0, 250, 0]}
  - {name: person, id: 3}
"""
TRAIN_IDS = np.array([[0, 1, 2, 255], [2, 2, 1, 0]], np.uint8)
IDS = np.array([7, 900, 3], np.uint16)


def ids_of(train_ids_hw):
    """As a 16-bit label image holds them."""
    return np.append(IDS, np.full(253, 255, np.uint16))[train_ids_hw]


def colors_of(train_ids_hw, labels):
    """As a label image of the classes' colours holds them: BGR; no label is black."""
    return labels.palette()[train_ids_hw][..., ::-1]


def write(path, pixels):
    os.makedirs(os.path.dirname(str(path)), exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_sample(root, split, stem, number=0, ids=None, train_ids=TRAIN_IDS, ending=".png"):
    """A picture of noise and its labels."""
    image = random_image(number, train_ids.shape)
    write(root / "images" / split / (stem + ending), image[..., ::-1])
    write(root / "labels" / split / (stem + ".png"), ids_of(train_ids) if ids is None else ids)
    return image


@pytest.fixture
def root(tmp_path):
    """A folder ``yard`` with the samples 1, 2, 10 in train and 1 in val."""
    folder = tmp_path / "yard"
    for number in (1, 2, 10):
        write_sample(folder, "train", "shot%d" % number, number)
    write_sample(folder, "val", "shot1", 99)
    (folder / "labels.yaml").write_text(YARD)
    return folder


def open_folder(root, split="train"):
    return open_dataset("folder", str(root), split)


def check(root, *more):
    """The exit code of ``check-data``."""
    return main(["check-data", "--dataset", "folder", "--root", str(root)] + [str(m) for m in more])


# The data set "folder"


def test_a_folder_gives_its_own_classes_in_natural_order(root):
    dataset = open_folder(root)
    assert dataset.label_set.names == ("ground", "rack", "person")
    assert [frame.name for frame in dataset] == ["shot1", "shot2", "shot10"]
    np.testing.assert_array_equal(dataset[2].image_hwc, random_image(10, TRAIN_IDS.shape))
    np.testing.assert_array_equal(dataset[2].truth_hw, TRAIN_IDS)
    assert dataset[0].truth_hw.dtype == np.uint8 and not dataset.notes


def test_colours_stand_for_classes_and_black_for_none(root):
    write_sample(root, "train", "shot2", ids=colors_of(TRAIN_IDS, read_label_set(labels_of(root))))
    np.testing.assert_array_equal(open_folder(root)[1].truth_hw, TRAIN_IDS)


def labels_of(root):
    return str(root / "labels.yaml")


def test_an_opaque_fourth_channel_is_no_matter(root):
    bgr = colors_of(TRAIN_IDS, read_label_set(labels_of(root)))
    write_sample(
        root, "train", "shot2", ids=np.dstack([bgr, np.full(bgr.shape[:2], 255, np.uint8)])
    )
    np.testing.assert_array_equal(open_folder(root)[1].truth_hw, TRAIN_IDS)
    write_sample(root, "train", "shot2", ids=np.dstack([bgr, np.full(bgr.shape[:2], 9, np.uint8)]))
    refused(lambda: open_folder(root)[1], "shot2.png", "4 channels", "opaque 8-bit colours")


def test_pictures_may_differ_in_size_and_format_and_lie_deeper(root):
    wide = np.zeros((4, 9), np.uint8)
    write_sample(root, "train", os.path.join("cam", "a"), 5, train_ids=wide, ending=".JPG")
    frame = open_folder(root)[0]
    assert frame.name == os.path.join("cam", "a") and frame.image_hwc.shape == (4, 9, 3)


def refused(read, *fragments):
    with pytest.raises(SegmentationError) as caught:
        read()
    assert_one_line(caught, *fragments)


def test_an_id_that_the_file_lacks_names_file_and_id(root):
    write_sample(root, "train", "shot2", ids=np.full(TRAIN_IDS.shape, 8, np.uint8))
    refused(lambda: open_folder(root)[1], root / "labels" / "train" / "shot2.png", "[8]", "yard")


def test_a_colour_of_no_class_names_file_and_colour(root):
    bgr = colors_of(TRAIN_IDS, read_label_set(labels_of(root))).copy()
    bgr[0, 0] = (3, 2, 1)
    write_sample(root, "train", "shot2", ids=bgr)
    refused(lambda: open_folder(root)[1], "labels/train/shot2.png", "[1, 2, 3]", "1 of its colours")


def test_two_classes_of_one_colour_cannot_be_told_apart(root):
    (root / "labels.yaml").write_text(YARD.replace("[0, 250, 0]", "[200, 10, 20]"))
    assert open_folder(root)[0].truth_hw is not None  # ids still can
    write_sample(root, "train", "shot2", ids=np.zeros(TRAIN_IDS.shape + (3,), np.uint8))
    refused(lambda: open_folder(root)[1], "'ground' and 'rack'", "[200, 10, 20]")


def test_two_classes_of_one_id_are_refused(root):
    (root / "labels.yaml").write_text(YARD.replace("900", "7"))
    refused(lambda: open_folder(root), labels_of(root), "'ground' and 'rack'", "id 7")


def test_the_name_of_a_built_in_label_set_is_taken(root):
    (root / "labels.yaml").write_text(YARD.replace("yard", "voc21"))
    refused(lambda: open_folder(root), labels_of(root), "'voc21'", "choose another")


def test_labels_of_another_size_give_both_sizes(root):
    write(root / "labels" / "train" / "shot2.png", np.zeros((5, 6), np.uint8))
    refused(lambda: open_folder(root)[1], "labels/train/shot2.png", "6x5", "4x2")
    write(root / "labels" / "train" / "shot2.png", np.zeros((4, 2), np.uint8))
    refused(lambda: open_folder(root)[1], "2x4", "4x2, as it lies in its file, which no orient")


def test_ids_in_three_equal_channels_are_told_from_colours(root):
    write_sample(root, "train", "shot2", ids=np.full(TRAIN_IDS.shape + (3,), 7, np.uint8))
    refused(lambda: open_folder(root)[1], "[7, 7, 7]", "if its greys are ids, save it with one")


def test_the_id_that_is_ignored_unless_said_otherwise_is_explained(root):
    """Masks of 0 and 255, as many tools write those of one class."""
    masks = "{name: yard, %s classes: [{name: rest}, {name: rack, id: 255}]}"
    (root / "labels.yaml").write_text(masks % "")
    refused(lambda: open_folder(root), "id 255 is ignored", "'rack'", "ignored_ids, without which")
    (root / "labels.yaml").write_text(masks % "ignored_ids: [],")
    write_sample(root, "train", "shot2", ids=np.array([[0, 255, 255, 0]] * 2, np.uint8))
    assert open_folder(root)[1].truth_hw[0].tolist() == [0, 1, 1, 0]


def test_a_folder_of_other_files_says_what_is_there(root):
    for path in (root / "images" / "val").iterdir():
        path.rename(path.with_suffix(".heic"))
    refused(lambda: open_folder(root, "val"), "images/val: no pictures, but shot1.heic; expected")


def test_a_card_tells_one_folder_from_another(root, tmp_path):
    def name(root, split="train"):
        return open_folder(root, split).name_on_card("folder")

    assert name(root).startswith("folder yard ") and name(root) != name(root, "val")
    moved = tmp_path / "elsewhere" / "yard"
    shutil.copytree(str(root), str(moved))
    assert name(moved) == name(root)
    write_sample(moved, "train", "shot2", 77, train_ids=np.zeros((9, 9), np.uint8))
    assert name(moved) != name(root)  # the same names, other pictures
    (moved / "labels" / "train" / "shot1.png").unlink()
    assert len({name(moved), name(root), name(moved, "val")}) == 3


def test_what_is_missing_is_named_with_the_layout(root):
    refused(lambda: open_folder(root, "trial"), "'trial'", "['train', 'val']")
    (root / "images" / "empty").mkdir()
    (root / "labels" / "empty").mkdir()
    refused(lambda: open_folder(root, "empty"), root / "images" / "empty", "no pictures")
    (root / "labels.yaml").unlink()
    refused(lambda: open_folder(root), labels_of(root), "no such file", "ROOT/labels.yaml")
    refused(lambda: open_folder(root / "images" / "train"), "images", "no such folder", "ROOT/")
    refused(lambda: open_folder(root / "gone"), "no such folder")


def test_a_file_without_its_partner_is_a_sample_that_cannot_be_read(root):
    (root / "labels" / "train" / "shot1.png").unlink()
    (root / "images" / "train" / "shot2.png").unlink()
    dataset = open_folder(root)
    assert len(dataset) == 3
    labels, images = root / "labels" / "train", root / "images" / "train"
    refused(lambda: dataset[0], labels / "shot1.png", "no such file, but", images / "shot1.png")
    refused(lambda: dataset[1], images / "shot2.png", "no such file, but", labels / "shot2.png")


def test_links_to_what_was_not_fetched_are_errors_of_check_data(root, capsys):
    """As git-annex and DVC leave them: a sample's both files."""
    for folder in ("images", "labels"):
        (root / folder / "val" / "shot2.png").symlink_to("/annex/objects/2")
    assert check(root, "--split", "val") == 1
    (error,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert str(root / "images" / "val" / "shot2.png") in error and "/annex/objects/2" in error


def test_two_pictures_of_one_stem_are_named(root):
    write(root / "images" / "train" / "shot2.jpg", random_image(0, TRAIN_IDS.shape))
    refused(lambda: open_folder(root)[1], "shot2.jpg", "shot2.png", "same stem")


def test_labels_in_a_lossy_format_are_refused(root):
    (root / "labels" / "train" / "shot2.png").unlink()
    write(root / "labels" / "train" / "shot2.jpg", np.zeros(TRAIN_IDS.shape, np.uint8))
    refused(lambda: open_folder(root)[1], "shot2.jpg", "JPEG", "save labels as PNG")


def test_hidden_files_are_no_data_and_others_are_named(root):
    for name in ("._shot1.png", ".DS_Store", "notes.txt"):
        (root / "images" / "train" / name).write_bytes(b"x")
    write(root / "images" / "stray.png", random_image(0))
    (root / "labels" / "test").mkdir()
    dataset = open_folder(root)
    assert len(dataset) == 3
    notes = "\n".join(dataset.notes)
    assert len(dataset.notes) == 3
    for fragment in (
        "images/train: left out, no pictures (1): notes.txt",
        "images: left out, in no split (1): stray.png",
        "labels: left out, in no split (1): test",
    ):
        assert fragment in notes


def test_a_folder_is_a_drive_too(root):
    (root / "labels" / "train" / "shot2.png").unlink()
    drive = open_drive("folder", str(root), "train")
    frames = list(drive.frames())
    assert [isinstance(frame, Problem) for frame in frames] == [False, True, False]
    assert drive.label_set.name == "yard"
    assert open_drive("folder", str(root), "").split == "val"


# The data set "voc"

LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
rack:250,0,0:a,b:c
person:::
"""


@pytest.fixture
def voc(tmp_path):
    """Three pictures as CVAT exports them, two of them in the list ``default``."""
    folder = tmp_path / "task 1"
    for number, stem in enumerate(("b 1", "a", "c")):
        write(folder / "JPEGImages" / (stem + ".jpg"), random_image(number, (2, 4)))
        write(folder / "SegmentationClass" / (stem + ".png"), np.full((2, 4), number, np.uint8))
    lists = folder / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "default.txt").write_text("b 1\na\n")
    (folder / "labelmap.txt").write_text(LABELMAP)
    return folder


def open_voc(root, split="default"):
    return open_dataset("voc", str(root), split)


def test_voc_takes_lists_and_labelmap(voc):
    dataset = open_voc(voc)
    assert [frame.name for frame in dataset] == ["b 1", "a"]
    assert dataset.label_set.names == ("background", "rack", "person")
    assert [item.color_rgb for item in dataset.label_set.classes][2] == (0, 128, 0)
    assert [int(frame.truth_hw[0, 0]) for frame in dataset] == [0, 1]
    (note,) = dataset.notes
    assert note.endswith("SegmentationClass: left out, in no list (1): c")
    assert open_drive("voc", str(voc), "").split == "default"


def test_voc_without_a_labelmap_has_vocs_classes(voc):
    (voc / "labelmap.txt").unlink()
    assert open_voc(voc).label_set is LABEL_SETS["voc21"]


def test_vocs_classes_have_the_names_that_a_labelmap_of_them_has(voc):
    """As in the development kit's ``VOCopts.classes``: a network of one is scored on the other."""
    names = (
        "background aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse "
        "motorbike person pottedplant sheep sofa train tvmonitor"
    )
    (voc / "labelmap.txt").write_text("".join(name + ":::\n" for name in names.split()))
    assert open_voc(voc).label_set.names == LABEL_SETS["voc21"].names


def test_voc_masks_may_be_colours_with_vocs_border(voc):
    rgb = np.array([[[0, 0, 0], [250, 0, 0], [0, 128, 0], [224, 224, 192]]] * 2, np.uint8)
    write(voc / "SegmentationClass" / "a.png", rgb[..., ::-1])
    assert open_voc(voc)[1].truth_hw[0].tolist() == [0, 1, 2, 255]


def test_a_palettes_indices_are_the_ids(voc):
    path = voc / "SegmentationClass" / "a.png"
    path.write_bytes(palette_png(np.array([[0, 1, 2, 255]] * 2, np.uint8)))
    assert open_voc(voc)[1].truth_hw[0].tolist() == [0, 1, 2, 255]


def palette_png(ids_hw, colors=None):
    """A PNG with a palette, VOC's unless ``colors`` are given, as VOC's own label images are."""

    def chunk(kind, body):
        crc = zlib.crc32(kind + body) & 0xFFFFFFFF
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)

    height, width = ids_hw.shape
    rows = b"".join(b"\0" + row.tobytes() for row in ids_hw)
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    palette = LABEL_SETS["voc21"].palette() if colors is None else np.array(colors, np.uint8)
    content = [(b"IHDR", header), (b"PLTE", palette.tobytes())]
    content += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in content)
    assert (decode_as_stored(data) == ids_hw).all()
    return data


def voc_mask(voc, ids, colors=None):
    """The train ids that are read of a palette's indices; of VOC's own palette by default."""
    path = voc / "SegmentationClass" / "a.png"
    path.write_bytes(palette_png(np.array([ids] * 2, np.uint8), colors))
    return open_voc(voc)[1].truth_hw[0].tolist()


BLACK, RED, GREEN = (0, 0, 0), (250, 0, 0), (0, 128, 0)


def test_a_palette_that_agrees_or_has_other_colors_leaves_the_indices(voc):
    for colors in (
        [BLACK, RED, (0, 0, 9)],  # agrees, and so far as it is none of the classes'
        [(1, 1, 1), BLACK, RED],  # not the classes' colours alone
        [BLACK] * 3,
    ):
        assert voc_mask(voc, [0, 1, 2, 2], colors) == [0, 1, 2, 2]
    assert voc_mask(voc, [0, 1, 0, 1], [BLACK, RED, RED]) == [0, 1, 0, 1]  # what is not used
    (voc / "labelmap.txt").unlink()
    assert voc_mask(voc, [0, 20, 7, 255]) == [0, 20, 7, 255]


def test_a_palette_that_shows_other_classes_than_its_indices_is_refused(voc):
    (voc / "labelmap.txt").write_text("rack:250,0,0::\nbackground:0,0,0::\nperson:0,128,0::\n")
    refused(
        lambda: voc_mask(voc, [0, 1, 2, 2], [BLACK, RED, GREEN]),
        "a.png: its palette gives the index 1 the colour of class 'rack', but the id 1 is that of",
        "'background'",
        "save it as RGB",
    )
    # Both ways out: each says what it is.
    rgb = np.array([[BLACK, RED, GREEN, GREEN]] * 2, np.uint8)
    write(voc / "SegmentationClass" / "a.png", rgb[..., ::-1])
    assert open_voc(voc)[1].truth_hw[0].tolist() == [1, 0, 2, 2]
    write(voc / "SegmentationClass" / "a.png", np.array([[0, 1, 2, 2]] * 2, np.uint8))
    assert open_voc(voc)[1].truth_hw[0].tolist() == [0, 1, 2, 2]
    refused(lambda: voc_mask(voc, [3, 3, 0, 1], [RED, BLACK, BLACK, GREEN]), "is none of a class")


def test_a_palette_contradicts_no_color_that_nobody_gave(voc):
    """labelme's palette begins as the colours do that a labels.yaml leaves out."""
    folder = voc / "yard"
    (folder / "labels" / "val").mkdir(parents=True)
    (folder / "labels.yaml").write_text("{name: yard, classes: [{name: floor}, {name: rack}]}")
    write(folder / "images" / "val" / "a.png", random_image(0, (2, 4)))
    data = palette_png(np.array([[0, 1, 1, 0]] * 2, np.uint8))
    (folder / "labels" / "val" / "a.png").write_bytes(data)
    assert open_dataset("folder", str(folder), "val")[0].truth_hw[0].tolist() == [0, 1, 1, 0]


def test_what_a_list_asks_for_in_vain_is_named_with_its_line(voc):
    (voc / "ImageSets" / "Segmentation" / "default.txt").write_text("a\ngone\n")
    refused(lambda: open_voc(voc)[1], "JPEGImages/gone", "default.txt, line 2, asks for it")


def test_what_lies_in_vocs_folders_and_is_not_read_is_noted(voc):
    lists = voc / "ImageSets" / "Segmentation"
    (lists / "default.txt").rename(lists / "default.TXT")
    for folder in (lists, voc / "JPEGImages", voc / "SegmentationClass"):
        (folder / "c.gif").write_bytes(b"GIF89a")
    dataset = open_voc(voc)
    assert [frame.name for frame in dataset] == ["b 1", "a"]
    for folder, kind in ((lists, "files *.txt"), (voc / "JPEGImages", "pictures")):
        assert "%s: left out, no %s (1): c.gif" % (folder, kind) in dataset.notes


def test_vocs_own_classes_do_not_stand_in_for_a_labelmap_that_was_not_fetched(voc):
    (voc / "labelmap.txt").unlink()
    (voc / "labelmap.txt").symlink_to("/annex/1")
    refused(lambda: open_voc(voc), voc / "labelmap.txt", "a link to /annex/1")


def test_what_is_wrong_in_voc_is_one_line(voc):
    lists = voc / "ImageSets" / "Segmentation"
    refused(lambda: open_voc(voc, "val"), "'val'", "['default']")
    (lists / "val.txt").write_text("\n")
    refused(lambda: open_voc(voc, "val"), "val.txt", "lists no picture")
    (lists / "val.txt").write_text("a\nb 1\na\n")
    refused(lambda: open_voc(voc, "val"), "val.txt, line 3", "listed twice")
    (voc / "labelmap.txt").write_text("rack:red::\n")
    refused(lambda: open_voc(voc), "labelmap.txt, line 1", "'rack:red::'", "name:r,g,b")
    (voc / "labelmap.txt").write_text("rack:1,2,300::\n")
    refused(lambda: open_voc(voc), "labelmap.txt", "color of 'rack'")
    (voc / "labelmap.txt").write_text("rack:1,2,3::\nrack:1,2,4::\n")
    refused(lambda: open_voc(voc), "labelmap.txt", "two classes are called 'rack'")


# check-data


def test_sound_data_is_told_and_written(root, tmp_path, capsys):
    assert check(root, "--json", tmp_path / "check.json") == 0
    out, err = capsys.readouterr()
    assert "ground" in out and "900" in out and "4x2 (3)" in out and not err
    found = json.loads((tmp_path / "check.json").read_text())
    assert found["problems"] == [] and list(found["splits"]) == ["train", "val"]
    train = found["splits"]["train"]
    assert train["pictures"] == 3 and train["sizes"] == {"4x2": 3}
    assert train["unlabelled_pixels"] == 3
    assert train["classes"]["person"] == {"pixels": 9, "share": 9 / 21, "pictures": 3}
    assert found["label_set"]["classes"][1]["id"] == 900


def test_everything_that_is_wrong_is_named(root, tmp_path, capsys):
    write_sample(root, "val", "copy", 2)  # shot2 of train
    write_sample(root, "train", "shot11", ids=np.full(TRAIN_IDS.shape, 8, np.uint8))
    (root / "labels" / "train" / "shot1.png").unlink()
    (root / "images" / "train" / "shot10.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    (root / "images" / "test").mkdir()
    (root / "labels" / "test").mkdir()
    assert check(root, "--json", tmp_path / "check.json") == 1
    errors = capsys.readouterr().err.splitlines()
    problems = json.loads((tmp_path / "check.json").read_text())["problems"]
    assert errors == ["error: " + line for line in problems] and len(problems) == 5
    for fragment in (
        "images/test: no pictures",
        "shot11.png: label ids [8] are out of range",
        "labels/train/shot1.png: no such file",
        "shot10.png: ",
        "the same picture: train: shot2, val: copy",
    ):
        assert sum(fragment in line for line in problems) == 1, problems


def test_a_class_of_next_to_nothing_and_a_picture_twice_are_warnings(root, capsys):
    for stem in ("a", "b"):
        write_sample(root, "val", stem, 7, train_ids=np.zeros((200, 200), np.uint8))
    assert check(root, "--split", "val") == 0
    err = capsys.readouterr().err
    assert "warning: val: on less than 0.01 % of the labelled pixels: rack, person\n" in err
    assert "warning: twice: val: a, val: b" in err


def test_pictures_that_ask_to_be_turned_are_a_warning(root, capsys):
    """Annotation tools show them turned, and write labels that fit what they show."""
    path = root / "images" / "val" / "shot1.png"
    data = path.read_bytes()
    exif = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 3, 0, 0)
    crc = struct.pack(">I", zlib.crc32(b"eXIf" + exif) & 0xFFFFFFFF)
    path.write_bytes(data[:33] + struct.pack(">I", len(exif)) + b"eXIf" + exif + crc + data[33:])
    assert check(root) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: val: an orientation in 1 pictures, as %s: " % path)


def test_a_split_that_is_named_twice_is_read_once(root, capsys):
    assert check(root, "--split", "val", "val") == 0
    out, err = capsys.readouterr()
    assert "twice" not in err and sum(line.startswith("val ") for line in out.splitlines()) == 1


def test_check_data_leaves_another_file_alone(root, tmp_path, capsys):
    (tmp_path / "mine.json").write_text("{}")
    assert check(root, "--json", tmp_path / "mine.json") == 1
    assert "left alone" in capsys.readouterr().err


def test_check_data_takes_the_splits_that_do_not_overlap(capsys):
    assert splits_of("camvid", "") == ("train", "val", "test")
    assert splits_of("kitti_semantics", "") == ("train",)


# make-folder


def test_make_folder_gives_data_that_is_sound(tmp_path, capsys):
    groups = "{name: three, groups: {ground: [road, sidewalk], plants: [vegetation], rest: '*'}}"
    (tmp_path / "three.yaml").write_text(groups)
    command = ["make-folder", "--output", str(tmp_path / "data"), "--frames", "2"]
    assert main(command + ["--grouping", str(tmp_path / "three.yaml")]) == 0
    assert check(tmp_path / "data") == 0
    labels = open_folder(tmp_path / "data").label_set
    assert labels.names == ("ground", "plants", "rest") and labels.name == "three"
    assert main(command) == 0  # its own folder it replaces
    assert open_folder(tmp_path / "data").label_set.name == "cityscapes19"
    assert main(["make-folder", "--output", str(tmp_path)]) == 1
    assert "left alone" in capsys.readouterr().err
