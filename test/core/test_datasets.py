"""Readers of data sets, on a tiny CamVid made here and on the real ones where they are."""

import numpy as np
import pytest
from support.core import tiny
from support.core.real_data import folder_of
from support.core.tiny import VOID, assert_one_line

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import DATASETS, open_dataset
from segmentation_node.evaluation.datasets.street.dataset import Street
from segmentation_node.labels import CAMVID_11, CITYSCAPES_19

IDS = np.array([[0, 3, VOID, 8], [10, 5, 5, VOID]], np.uint8)
IMAGE = tiny.random_image(0, IDS.shape)


@pytest.fixture
def root(tmp_path):
    """Three samples a, b, c in ``train``, without a list file."""
    tiny.write_camvid(tmp_path, "train", dict.fromkeys(("b.png", "a.png"), (IMAGE, IDS)))
    tiny.write_camvid(tmp_path, "train", {"c.png": (255 - IMAGE, IDS)})
    return tmp_path


def assert_refused(root, *fragments):
    """Reading every sample of ``train`` ends in a DatasetError of one line."""
    with pytest.raises(DatasetError) as caught:
        list(open_dataset("camvid", str(root), "train"))
    assert_one_line(caught, *fragments)


def test_camvid_gives_rgb_and_train_ids(root):
    sample = open_dataset("camvid", str(root), "train")[0]
    assert sample.name == "a.png"
    np.testing.assert_array_equal(sample.image_hwc, IMAGE)
    np.testing.assert_array_equal(sample.truth_hw, [[0, 3, 255, 8], [10, 5, 5, 255]])
    assert sample.truth_hw.dtype == np.uint8


def test_camvid_without_a_list_takes_every_image_by_name(root):
    dataset = open_dataset("camvid", str(root), "train")
    assert len(dataset) == 3 and dataset.label_set is CAMVID_11
    assert [sample.name for sample in dataset] == ["a.png", "b.png", "c.png"]


def test_a_list_with_its_authors_paths_chooses_and_orders(root):
    (root / "train.txt").write_text(
        "/SegNet/CamVid/train/c.png /SegNet/CamVid/trainannot/c.png\n"
        "\n"
        "/SegNet/CamVid/train/a.png /SegNet/CamVid/trainannot/a.png\n"
    )
    samples = list(open_dataset("camvid", str(root), "train"))
    assert [sample.name for sample in samples] == ["c.png", "a.png"]
    np.testing.assert_array_equal(samples[0].image_hwc, 255 - IMAGE)


@pytest.mark.parametrize("drive", ["0001TP", "0006R0"])
def test_camvids_train_divides_by_drive(tmp_path, drive):
    names = ["0001TP_1.png", "0001TP_2.png", "0006R0_f1.png", "0016E5_1.png"]
    tiny.write_camvid(tmp_path, "train", dict.fromkeys(names, (IMAGE, IDS)))

    def read(split):
        return [sample.name for sample in open_dataset("camvid", str(tmp_path), split)]

    assert read("train_" + drive) == [name for name in names if name.startswith(drive)]
    assert sorted(read("train_" + drive) + read("train_without_" + drive)) == names


def test_camvids_trainval_is_train_and_then_val(root):
    tiny.write_camvid(root, "val", {"a.png": (255 - IMAGE, (IDS + 1) % 12)})
    (root / "train.txt").write_text("train/c.png\ntrain/b.png\n")
    train, val, both = (
        list(open_dataset("camvid", str(root), split)) for split in ("train", "val", "trainval")
    )
    assert [sample.name for sample in both] == ["c.png", "b.png", "a.png"]
    for sample, expected in zip(both, train + val):
        np.testing.assert_array_equal(sample.image_hwc, expected.image_hwc)
        np.testing.assert_array_equal(sample.truth_hw, expected.truth_hw)


@pytest.mark.parametrize("gone", ["train", "val"])
def test_camvids_trainval_needs_both(root, gone):
    tiny.write_camvid(root, "val", {"d.png": (IMAGE, IDS)})
    (root / gone).rename(root / "elsewhere")
    with pytest.raises(DatasetError) as caught:
        open_dataset("camvid", str(root), "trainval")
    assert_one_line(caught, root / gone, "no such folder", "SegNet's layout")


def test_an_unknown_data_set_lists_the_known_ones():
    with pytest.raises(DatasetError) as caught:
        open_dataset("ade20k", "", "train")
    assert_one_line(caught, "'ade20k'", *sorted(DATASETS))


@pytest.mark.parametrize("name", sorted(name for name in DATASETS if DATASETS[name].splits))
def test_an_unknown_split_lists_the_known_ones(name, root):
    with pytest.raises(DatasetError) as caught:
        open_dataset(name, str(root), "trial")
    assert_one_line(caught, "'trial'", *[repr(split) for split in DATASETS[name].splits])


@pytest.mark.parametrize("gone", ["train", "trainannot"])
def test_a_missing_folder_is_named_with_the_layout(root, gone):
    (root / gone).rename(root / "elsewhere")
    assert_refused(root, root / gone, "no such folder", "SegNet's layout")


def test_a_folder_without_images_is_named(root):
    for name in "abc":
        (root / "train" / (name + ".png")).unlink()
    assert_refused(root, root / "train", "no files *.png", "SegNet's layout")


@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_a_missing_file_is_named(root, folder):
    (root / "train.txt").write_text("train/a.png trainannot/a.png\n")
    (root / folder / "a.png").unlink()
    assert_refused(root, root / folder / "a.png", "o such file")


def test_what_camvid_leaves_out_is_noted_and_what_it_lacks_is_named(root):
    """An ending in upper case is a picture, another format none; labels want their image."""
    for folder in ("train", "trainannot"):
        (root / folder / "b.png").rename(root / folder / "b.PNG")
    (root / "train" / "c.png").rename(root / "train" / "c.jpg")
    dataset = open_dataset("camvid", str(root), "train")
    assert [dataset.sample_name(index) for index in range(3)] == ["a.png", "b.PNG", "c.png"]
    np.testing.assert_array_equal(dataset[1].image_hwc, IMAGE)
    (note,) = dataset.notes
    assert note == "%s: left out, no files *.png (1): c.jpg" % (root / "train")
    assert_refused(root, root / "train" / "c.png", "no such file, but", "trainannot/c.png is there")


def test_what_a_list_leaves_out_is_noted(root):
    (root / "train.txt").write_text("a\nb\n")
    dataset = open_dataset("camvid", str(root), "train")
    assert len(dataset) == 2
    assert dataset.notes == tuple(
        "%s: left out, not in train.txt (1): c" % (root / folder)
        for folder in ("train", "trainannot")
    )


def test_a_lists_byte_order_mark_is_no_part_of_a_name(root):
    (root / "train.txt").write_text("a\nb.PNG\n", encoding="utf-8-sig")
    samples = list(open_dataset("camvid", str(root), "train"))
    assert [sample.name for sample in samples] == ["a.png", "b.png"]


def test_a_list_that_cannot_be_meant_is_refused(root):
    path = root / "train.txt"
    path.write_text("/a/train/a.png /a/trainannot/a.png\nb\na\n")
    assert_refused(root, path, "line 3", "a is listed twice")
    path.write_text("\n")
    assert_refused(root, path, "lists no image")
    path.unlink()
    path.symlink_to("/annex/1")
    assert_refused(root, path, "a link to /annex/1")


@pytest.mark.parametrize("folder", ["train", "trainannot"])
def test_an_unreadable_image_is_named(root, folder):
    (root / folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    assert_refused(root, root / folder / "b.png", "PNG")


def test_labels_of_another_size_give_both(root):
    tiny.write_camvid(root, "train", {"b.png": (IMAGE, IDS[:, :3])})
    assert_refused(root, root / "trainannot" / "b.png", "3x2", "4x2")


def test_a_label_out_of_range_is_named(root):
    tiny.write_camvid(root, "train", {"b.png": (IMAGE, IDS + 5)})
    assert_refused(root, root / "trainannot" / "b.png", "[13, 15, 16]", "camvid11")


@pytest.mark.parametrize("labels", [tiny.paint(IDS % 11), IDS.astype(np.uint16)])
def test_labels_that_are_no_ids_are_refused(root, labels):
    tiny.write_camvid(root, "train", {"b.png": (IMAGE, labels)})
    assert_refused(
        root, root / "trainannot" / "b.png", labels.dtype, labels.shape, "single-channel 8-bit"
    )


def test_street_splits_share_no_drive():
    seeds = [set(Street("", split).seeds) for split in Street.splits]
    assert len(set.union(*seeds)) == sum(map(len, seeds))
    assert all(seeds)


def test_street_gives_labelled_frames():
    dataset = open_dataset("street", "", "val")
    last = len(dataset) - 1
    sample, again, other = dataset[last - 1], dataset[last - 1], dataset[last]
    assert sample.image_hwc.shape == (360, 640, 3) and sample.truth_hw.shape == (360, 640)
    assert set(np.unique(sample.truth_hw)) <= set(range(len(CITYSCAPES_19))) | {255}
    np.testing.assert_array_equal(sample.image_hwc, again.image_hwc)
    assert sample.name != other.name and (sample.image_hwc != other.image_hwc).any()
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@pytest.mark.parametrize("split, samples", [("train", 367), ("val", 101), ("trainval", 468)])
def test_the_real_camvid_is_read(split, samples):
    dataset = open_dataset("camvid", folder_of("camvid"), split)
    assert len(dataset) == samples
    sample = dataset[samples - 1]
    assert sample.image_hwc.shape == (360, 480, 3) and sample.truth_hw.shape == (360, 480)
    assert set(np.unique(sample.truth_hw)) <= set(range(11)) | {255}
