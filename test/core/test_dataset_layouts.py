"""Cityscapes, KITTI semantics and KITTI-STEP in their own layouts, made tiny in tmp_path.

The readers are held to the layouts here; test_metrics_cityscapes.py has the real images.
"""

import time
from contextlib import closing

import cv2
import numpy as np
import pytest
from support.core.tiny import assert_one_line, write

from segmentation_node.errors import DatasetError
from segmentation_node.evaluation.datasets import Dataset, open_dataset
from segmentation_node.evaluation.read_ahead import read_ahead
from segmentation_node.evaluation.run.instances import instance_ids

IMAGE = np.random.RandomState(3).randint(0, 256, (2, 4, 3)).astype(np.uint8)
IDS = np.array([[7, 8, 26, 26], [24, 0, 29, 26]], np.uint8)
TRAIN_IDS = np.array([[0, 1, 13, 13], [11, 255, 255, 13]], np.uint8)
# The last car is one of a group: its pixels belong to no instance.
CITYSCAPES_VALUES = np.array([[7, 8, 26000, 26001], [24000, 0, 29000, 26]], np.uint16)
CITYSCAPES_NUMBERS = np.array([[0, 0, 1, 2], [1, 0, 0, 0]])
KITTI_VALUES = np.array([[7, 8, 26, 26], [24, 0, 29, 26]], np.uint16) * 256 + np.array(
    [[0, 0, 1, 200], [3, 0, 1, 0]], np.uint16
)
KITTI_NUMBERS = np.array([[0, 0, 1, 200], [3, 0, 0, 0]])
STEP_NUMBERS = np.array([[0, 0, 1, 300], [65535, 0, 0, 0]])


class Layout:
    """A data set of one sample: its files, and what they must be read as."""

    def __init__(self, dataset, split, name, files, numbers):
        self.dataset, self.split, self.name = dataset, split, name
        self.image, self.labels, self.instances = files
        self.numbers = numbers

    def write(self, root):
        write(root / self.image, IMAGE)
        write(root / self.labels, IDS)
        write(root / self.instances, self.values())

    def values(self):
        return CITYSCAPES_VALUES if "cityscapes" in self.dataset else KITTI_VALUES

    def open(self, root, **options):
        return open_dataset(self.dataset, str(root), self.split, **options)


class StepLayout(Layout):
    """One file holds labels and instances."""

    def write(self, root):
        write(root / self.image, IMAGE)
        write(root / self.labels, panoptic_map(TRAIN_IDS, STEP_NUMBERS))


def panoptic_map(train_ids, numbers):
    return np.dstack([train_ids, numbers // 256, numbers % 256]).astype(np.uint8)


def cityscapes_files(annotation, split):
    frame = "aachen/aachen_000001_000019"
    labels = "%s/%s/%s_%s" % (annotation, split, frame, annotation)
    return (
        "leftImg8bit/%s/%s_leftImg8bit.png" % (split, frame),
        labels + "_labelIds.png",
        labels + "_instanceIds.png",
    )


def cityscapes(dataset, annotation, split):
    files = cityscapes_files(annotation, split)
    return Layout(dataset, split, "aachen/aachen_000001_000019", files, CITYSCAPES_NUMBERS)


def kitti_semantics(split):
    files = ["training/%s/000007_10.png" % name for name in ("image_2", "semantic", "instance")]
    return Layout("kitti_semantics", split, "000007", files, KITTI_NUMBERS)


def kitti_step(split, images):
    labels = "panoptic_maps/%s/0002/000005.png" % split
    files = (images + "/0002/000005.png", labels, labels)
    return StepLayout("kitti_step", split, "0002/000005", files, STEP_NUMBERS)


LAYOUTS = {
    "cityscapes": cityscapes("cityscapes", "gtFine", "val"),
    "cityscapes train": cityscapes("cityscapes", "gtFine", "train"),
    "coarse": cityscapes("cityscapes_coarse", "gtCoarse", "train_extra"),
    "kitti_semantics": kitti_semantics("training"),
    "kitti_semantics train": kitti_semantics("train"),
    "kitti_step": kitti_step("val", "training/image_02"),
    "kitti_step train": kitti_step("train", "training/image_02"),
    "kitti_step sorted": kitti_step("val", "images/val"),
}
ONE_OF_EACH = ["cityscapes", "coarse", "kitti_semantics", "kitti_step"]
WITH_INSTANCE_FILES = ["cityscapes", "coarse", "kitti_semantics"]


@pytest.fixture
def layout(request, tmp_path):
    chosen = LAYOUTS[request.param]
    chosen.write(tmp_path)
    return chosen


def every(names):
    return pytest.mark.parametrize("layout", names, indirect=True)


def assert_refused(layout, root, *fragments):
    """Opening and reading ends in a DatasetError of one line with every fragment in it."""
    with pytest.raises(DatasetError) as caught:
        list(layout.open(root, with_instances=True))
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert str(fragment) in message, "%r is not in: %s" % (str(fragment), message)


@every(sorted(LAYOUTS))
def test_a_sample_is_rgb_and_train_ids(layout, tmp_path):
    dataset = layout.open(tmp_path)
    (sample,) = list(dataset)
    assert len(dataset) == 1 and sample.name == layout.name
    np.testing.assert_array_equal(sample.image_hwc, IMAGE)
    np.testing.assert_array_equal(sample.truth_hw, TRAIN_IDS)
    assert sample.truth_hw.dtype == np.uint8 and sample.instances_hw is None


@every(sorted(LAYOUTS))
def test_instances_are_read_where_asked_for(layout, tmp_path):
    instances = layout.open(tmp_path, with_instances=True)[0].instances_hw
    np.testing.assert_array_equal(instances, instance_ids(TRAIN_IDS, layout.numbers))
    assert instances.dtype == np.int32
    np.testing.assert_array_equal(instances > 0, layout.numbers > 0)
    np.testing.assert_array_equal(instances[instances > 0] >> 16, TRAIN_IDS[instances > 0])


@every(WITH_INSTANCE_FILES)
def test_instance_files_may_be_absent_where_nobody_asks(layout, tmp_path):
    (tmp_path / layout.instances).unlink()
    assert len(list(layout.open(tmp_path))) == 1
    assert_refused(layout, tmp_path, tmp_path / layout.instances, "No such file")


def test_data_sets_without_instances_give_none():
    class Unnumbered(Dataset):
        splits = ("val",)

    assert not Unnumbered("", "val", with_instances=True).with_instances


@every(ONE_OF_EACH)
def test_an_unknown_split_lists_the_known_ones(layout, tmp_path):
    with pytest.raises(DatasetError) as caught:
        open_dataset(layout.dataset, str(tmp_path), "test")
    assert "'test'" in str(caught.value) and "'train'" in str(caught.value)


@every(ONE_OF_EACH)
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_a_missing_folder_is_named_with_the_layout(layout, kind, tmp_path):
    top = getattr(layout, kind).split("/")[0]
    (tmp_path / top).rename(tmp_path / "elsewhere")
    assert_refused(layout, tmp_path, tmp_path / top, "no such folder", "layout: ROOT/")


@every(ONE_OF_EACH)
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_a_folder_without_files_is_named(layout, kind, tmp_path):
    path = tmp_path / getattr(layout, kind)
    path.unlink()
    assert_refused(layout, tmp_path, "no files *", "layout: ROOT/")


@every(ONE_OF_EACH)
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_an_image_without_labels_and_labels_without_image_are_named(layout, kind, tmp_path):
    copy_sample(layout, tmp_path)
    path = tmp_path / getattr(layout, kind)
    path.unlink()
    dataset = layout.open(tmp_path)
    whole, broken = sorted(range(2), key=lambda index: dataset.sample_name(index) == layout.name)
    np.testing.assert_array_equal(dataset[whole].image_hwc, IMAGE)
    with pytest.raises(DatasetError) as caught:
        dataset[broken]
    assert_one_line(caught, path, "no such file, but", "is there")


def copy_sample(layout, root):
    """A second sample with the same files."""
    for kind in ("image", "labels"):
        path = root / getattr(layout, kind)
        (path.parent / _next(path.name)).write_bytes(path.read_bytes())


def _next(name):
    """The name of another frame: the first digit becomes 9."""
    digit = min(name.index(d) for d in "0123456789" if d in name)
    return name[:digit] + "9" + name[digit + 1 :]


@every(ONE_OF_EACH)
def test_links_to_what_was_not_fetched_are_samples_that_cannot_be_read(layout, tmp_path):
    """As git-annex and DVC leave them: both files of a sample."""
    copy_sample(layout, tmp_path)
    for path in {tmp_path / layout.image, tmp_path / layout.labels}:
        path.unlink()
        path.symlink_to("/annex/objects/1")
    dataset = layout.open(tmp_path)
    assert len(dataset) == 2
    assert_refused(layout, tmp_path, tmp_path / layout.image, "link to /annex/objects/1")


@every(ONE_OF_EACH)
def test_endings_in_upper_case_are_the_same(layout, tmp_path):
    for path in {tmp_path / f for f in (layout.image, layout.labels, layout.instances)}:
        path.rename(path.with_suffix(".PNG"))
    (sample,) = list(layout.open(tmp_path, with_instances=True))
    assert sample.name == layout.name
    np.testing.assert_array_equal(sample.truth_hw, TRAIN_IDS)
    np.testing.assert_array_equal(sample.instances_hw, instance_ids(TRAIN_IDS, layout.numbers))


@every(ONE_OF_EACH)
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_two_files_of_one_key_are_named(layout, kind, tmp_path):
    path = tmp_path / getattr(layout, kind)
    path.with_suffix(".PNG").write_bytes(path.read_bytes())
    assert_refused(layout, tmp_path, path, path.with_suffix(".PNG"), "same stem")


@every(ONE_OF_EACH)
@pytest.mark.parametrize("kind", ["image", "labels"])
def test_other_files_are_noted(layout, kind, tmp_path):
    assert layout.open(tmp_path).notes == ()
    folder = (tmp_path / getattr(layout, kind)).parent
    (folder / "README.txt").write_text("x")
    (folder / "._x.png").write_text("a Mac's")
    dataset = layout.open(tmp_path)
    (note,) = dataset.notes
    assert len(list(dataset)) == 1
    assert "left out, no files *" in note and note.endswith("(1): " + found_at(folder, layout))


def found_at(folder, layout):
    city = folder.name + "/" if "cityscapes" in layout.dataset else ""
    return city + "README.txt"


@every(["cityscapes", "coarse"])
def test_what_cityscapes_has_beside_its_labels_is_by_design(layout, tmp_path):
    stem = str(tmp_path / layout.labels).replace("labelIds.png", "")
    for name in ("color.png", "labelTrainIds.png", "polygons.json"):
        with open(stem + name, "w") as file:
            file.write("x")
    assert layout.open(tmp_path).notes == ()


@every(ONE_OF_EACH)
@pytest.mark.parametrize("kind", ["image", "labels", "instances"])
@pytest.mark.parametrize("damage", ["cut", "empty", "text"])
def test_an_unreadable_image_is_named(layout, kind, damage, tmp_path):
    path = tmp_path / getattr(layout, kind)
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b"", "text": b"PNG?"}[damage])
    assert_refused(layout, tmp_path, path, "PNG")


@every(ONE_OF_EACH)
def test_labels_of_another_size_give_both(layout, tmp_path):
    path = tmp_path / layout.labels
    write(path, cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[:, :3])
    assert_refused(layout, tmp_path, path, "3x2", "4x2")


@every(WITH_INSTANCE_FILES)
def test_instances_of_another_size_give_both(layout, tmp_path):
    write(tmp_path / layout.instances, layout.values()[:1])
    assert_refused(layout, tmp_path, tmp_path / layout.instances, "4x1", "4x2")


@every(WITH_INSTANCE_FILES)
def test_a_label_out_of_range_is_named(layout, tmp_path):
    write(tmp_path / layout.labels, IDS + 20)
    assert_refused(layout, tmp_path, tmp_path / layout.labels, "[44, 46, 49]", "cityscapes19")


@every(["kitti_step"])
def test_train_ids_out_of_range_are_named(layout, tmp_path):
    ids = TRAIN_IDS.copy()
    ids[0, 0] = 19
    write(tmp_path / layout.labels, panoptic_map(ids, STEP_NUMBERS))
    assert_refused(layout, tmp_path, tmp_path / layout.labels, "[19]", "cityscapes19")


@every(WITH_INSTANCE_FILES)
def test_an_instance_of_an_unknown_class_is_named(layout, tmp_path):
    values = layout.values().copy()
    values[1, 1] = 60000
    write(tmp_path / layout.instances, values)
    assert_refused(layout, tmp_path, tmp_path / layout.instances, "[60000]")


@every(ONE_OF_EACH)
@pytest.mark.parametrize("wrong", [IDS[..., None].repeat(4, axis=2), IDS.astype(np.uint16)])
def test_labels_of_another_format_are_refused(layout, wrong, tmp_path):
    path = tmp_path / layout.labels
    assert cv2.imwrite(str(path), wrong)
    assert_refused(layout, tmp_path, path, wrong.dtype, wrong.shape, "8-bit label image")


@every(WITH_INSTANCE_FILES)
def test_instances_have_16_bits(layout, tmp_path):
    write(tmp_path / layout.instances, IDS)
    assert_refused(layout, tmp_path, tmp_path / layout.instances, "uint8", "16-bit")


def test_cities_and_frames_come_in_order(tmp_path):
    for city, frame in (("ulm", 2), ("bonn", 1), ("ulm", 1)):
        for path, image in zip(cityscapes_files("gtFine", "val"), (IMAGE, IDS)):
            path = path.replace("aachen", city).replace("000001", "%06d" % frame)
            write(tmp_path / path, image)
    names = [sample.name for sample in open_dataset("cityscapes", str(tmp_path), "val")]
    assert names == [
        "bonn/bonn_000001_000019", "ulm/ulm_000001_000019", "ulm/ulm_000002_000019",
    ]  # fmt: skip


def test_fine_and_coarse_labels_share_the_images(tmp_path):
    cityscapes("cityscapes", "gtFine", "train").write(tmp_path)
    coarse = cityscapes("cityscapes_coarse", "gtCoarse", "train")
    coarse.write(tmp_path)
    write(tmp_path / coarse.labels, np.zeros_like(IDS))
    assert (coarse.open(tmp_path)[0].truth_hw == 255).all()
    assert (open_dataset("cityscapes", str(tmp_path), "train")[0].truth_hw == TRAIN_IDS).all()


@every(["kitti_semantics"])
def test_the_images_of_kittis_other_archives_are_left_alone(layout, tmp_path):
    write(tmp_path / "training/image_2/000007_11.png", IMAGE)
    write(tmp_path / "training/image_2/000007.png", IMAGE)
    assert len(layout.open(tmp_path)) == 1 and layout.open(tmp_path).notes == ()
    write(tmp_path / "training/image_2/000008_10.jpg", IMAGE)
    (note,) = layout.open(tmp_path).notes
    assert note.endswith("training/image_2: left out, no files *_10.png (1): 000008_10.jpg")


@every(["kitti_step sorted"])
def test_what_is_no_sequence_is_noted(layout, tmp_path):
    (tmp_path / "panoptic_maps/val/README.txt").write_text("x")
    write(tmp_path / "images/val/0099/000000.png", IMAGE)
    dataset = layout.open(tmp_path)
    assert len(list(dataset)) == 1
    strays, unmapped = dataset.notes
    assert strays.endswith("panoptic_maps/val: left out, no sequence's folder (1): README.txt")
    assert unmapped.endswith("images/val: left out, no panoptic maps (1): 0099")


@every(["kitti_step"])
def test_the_maps_choose_the_sequences_of_a_split(layout, tmp_path):
    write(tmp_path / "training/image_02/0000/000000.png", IMAGE)
    kitti_step("val", "training/image_02").write(tmp_path)
    write(tmp_path / "panoptic_maps/train/0000/000000.png", panoptic_map(TRAIN_IDS, STEP_NUMBERS))
    assert [sample.name for sample in layout.open(tmp_path)] == ["0002/000005"]
    train = open_dataset("kitti_step", str(tmp_path), "train")
    assert [sample.name for sample in train] == ["0000/000000"]


@every(["kitti_step"])
def test_a_missing_sequence_is_named(layout, tmp_path):
    write(tmp_path / "panoptic_maps/val/0006/000000.png", panoptic_map(TRAIN_IDS, STEP_NUMBERS))
    assert_refused(layout, tmp_path, tmp_path / "training/image_02/0006", "no such folder")


def test_a_split_without_sequences_is_named(tmp_path):
    (tmp_path / "panoptic_maps/val").mkdir(parents=True)
    with pytest.raises(DatasetError, match="no sequences"):
        open_dataset("kitti_step", str(tmp_path), "val")


class Slow:
    """Counts what is read; index 3 cannot be."""

    def __init__(self):
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        if index == 3:
            raise DatasetError("sample 3 is broken")
        return index


def test_reading_ahead_keeps_the_order_and_its_bound():
    dataset = Slow()
    with closing(read_ahead(dataset, [0, 1, 2, 4, 5, 6, 7], depth=2)) as samples:
        assert next(samples) == 0
        time.sleep(0.05)
        assert len(dataset.read) <= 3
        assert list(samples) == [1, 2, 4, 5, 6, 7]


def test_an_error_comes_out_where_its_sample_would():
    samples = read_ahead(Slow(), range(6), depth=4)
    assert [next(samples) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DatasetError, match="sample 3"):
        next(samples)


def test_leaving_early_reads_no_more():
    dataset = Slow()
    with closing(read_ahead(dataset, range(10, 100), depth=2)) as samples:
        next(samples)
    seen = len(dataset.read)
    time.sleep(0.05)
    assert len(dataset.read) == seen <= 3


def test_reading_ahead_goes_on_while_the_consumer_works():
    dataset = Slow()
    with closing(read_ahead(dataset, [7, 8, 9], depth=2)) as samples:
        next(samples)
        deadline = time.monotonic() + 5
        while len(dataset.read) < 3 and time.monotonic() < deadline:
            time.sleep(0.001)
    assert dataset.read == [7, 8, 9]
