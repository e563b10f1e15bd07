"""What goes to a machine with a GPU, and in what parts its results come back."""

import zipfile

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from support.training_runs import write_camvid

from segmentation_node.errors import ContentError, DatasetError
from segmentation_node.evaluation.datasets import open_dataset
from tools.gpu import MOST_FILES, OTHER_FILES, ROOT, GpuError, Limits, pack, parts
from tools.gpu.parts import Parts, read_parts
from tools.gpu.pictures import pack_camvid, unpack_camvid
from tools.gpu.weights import packed_weights, unpacked_weights


@pytest.fixture(scope="module")
def camvid(tmp_path_factory):
    return write_camvid(tmp_path_factory.mktemp("data") / "camvid")


def test_camvid_comes_out_as_it_went_in(camvid, tmp_path):
    assert pack_camvid(camvid, tmp_path / "camvid.zip") == {"train": 12, "val": 4}
    unpack_camvid(tmp_path / "camvid.zip", tmp_path / "out")
    for split in ("train", "val"):
        before, after = (
            open_dataset("camvid", str(at), split) for at in (camvid, tmp_path / "out")
        )
        frames = {frame.name: frame for frame in (after[index] for index in range(len(after)))}
        assert len(after) == len(before)
        for index in range(len(before)):
            expected, found = before[index], frames[before.sample_name(index)]
            np.testing.assert_array_equal(found.truth_hw, expected.truth_hw)
            difference = found.image_hwc.astype(float) - expected.image_hwc
            assert np.sqrt((difference**2).mean()) < 5


def test_a_damaged_picture_is_refused_and_leaves_nothing(camvid, tmp_path):
    broken = write_camvid(tmp_path / "camvid")
    (broken / "train" / "3.png").write_bytes(b"no picture")
    with pytest.raises(DatasetError, match=r"3\.png: not a readable image"):
        pack_camvid(broken, tmp_path / "camvid.zip")
    assert not (tmp_path / "camvid.zip").exists()


def test_what_is_sent_has_neither_models_nor_results_nor_what_git_ignores():
    sent = {str(path) for path in pack.sent_files(ROOT)}
    assert {"training/train.py", "tools/gpu/run.py", "test/core/test_backends.py"} <= sent
    assert not [
        name for name in sent if name.startswith(("models/", "benchmarks/results/", "out/"))
    ]


def test_a_folder_outside_git_is_named(tmp_path):
    with pytest.raises(GpuError, match="is no checkout of git"):
        pack.sent_files(tmp_path)


def test_what_is_too_large_is_refused(tmp_path):
    (tmp_path / "camvid.zip").write_bytes(bytes(100))
    (tmp_path / "more").write_bytes(bytes(10_000))
    assert pack.check_sizes(tmp_path) == 10_100
    with pytest.raises(GpuError, match="CamVid packs to 100 bytes; at most 99"):
        pack.check_sizes(tmp_path, most_camvid=99)
    with pytest.raises(GpuError, match="has 10100 bytes; at most 14195 travel"):
        pack.check_sizes(tmp_path, most=14_195)


def test_limits_fit_into_ten_minutes_and_eight_files():
    assert sum(Limits()) <= 540
    assert len(OTHER_FILES) + parts.MOST_PARTS == MOST_FILES
    assert parts.PART_BYTES < 16_000_000 and parts.MOST_PARTS * parts.PART_BYTES < 64 << 20


FILES = {"a/one": bytes(range(256)) * 20, "a/two": b"", "b/three": b"x" * 3000}


@pytest.mark.parametrize("part_bytes", [700, 512, 100_000])
def test_parts_are_no_larger_than_they_may_be_and_hold_all(tmp_path, part_bytes):
    for name, content in FILES.items():
        # Each file by another writer, as when a process was started again.
        Parts(tmp_path, part_bytes, most=30).append(name, content)
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert set(sizes[:-1]) <= {part_bytes} and sizes[-1] <= part_bytes
    assert dict(read_parts(tmp_path)) == FILES


def test_what_finds_no_room_is_refused_and_what_was_there_stays(tmp_path):
    out = Parts(tmp_path, 4096, most=2)
    out.append("small", b"x" * 100)
    with pytest.raises(GpuError, match="large: .* have room for 7168"):
        out.append("large", bytes(9000))
    assert dict(read_parts(tmp_path)) == {"small": b"x" * 100}


def test_what_arrived_whole_is_read_before_the_cut_is_told(tmp_path):
    for name, content in FILES.items():
        Parts(tmp_path, 4096).append(name, content)
    last = max(tmp_path.iterdir())
    last.write_bytes(last.read_bytes()[:-2000])
    found = {}
    with pytest.raises(GpuError, match="the weights are cut off"):
        for name, content in read_parts(tmp_path):
            found[name] = content
    assert found == {name: FILES[name] for name in ("a/one", "a/two")}


def test_a_missing_part_is_named(tmp_path):
    for name, content in FILES.items():
        Parts(tmp_path, 4096).append(name, content)
    (tmp_path / "weights.01").unlink()
    with pytest.raises(GpuError, match=r"weights\.01 is missing before weights\.02"):
        list(read_parts(tmp_path))


def test_kernels_lose_their_last_bits_and_nothing_else_does(tmp_path):
    torch.manual_seed(0)
    tensors = {
        "kernel": torch.randn(8, 4, 3, 3),
        "bias": torch.randn(8),
        "count": torch.tensor(7),
        "large": torch.full((2, 2), 1e6),
    }
    save_file(tensors, str(tmp_path / "weights.safetensors"))
    found = unpacked_weights(packed_weights(tmp_path / "weights.safetensors"))
    assert {name: item.dtype for name, item in found.items()} == {
        name: item.dtype for name, item in tensors.items()
    }
    assert torch.equal(found["kernel"], tensors["kernel"].half().float())
    for name in ("bias", "count", "large"):
        assert torch.equal(found[name], tensors[name])


def test_damaged_weights_are_one_line():
    with pytest.raises(GpuError, match="weights that came back are damaged"):
        unpacked_weights(b"nothing of zlib")


def test_a_second_run_goes_on_from_the_networks_for_which_there_is_room(tmp_path, capsys):
    back, folder = tmp_path / "back", tmp_path / "pack"
    back.mkdir()
    for network, size, recipe in (
        ("segnet", 200, {"start_weights": "", "trunk": ""}),
        ("elu_squeezenet", 20, {"start_weights": "", "trunk": "squeezenet1_1.safetensors"}),
        ("enet", 10, {"start_weights": "start/enet/from_random.safetensors", "trunk": ""}),
    ):
        weights = tmp_path / f"{network}.safetensors"
        save_file({"kernel": torch.randn(size, 10)}, str(weights))
        out = Parts(back)
        out.append(f"{network}/recipe.yaml", yaml.safe_dump(recipe).encode())
        out.append(f"{network}/weights.safetensors.z", packed_weights(weights))
    sent = list(pack.add_starts(back, folder, room=3000))
    assert sent == ["enet", "elu_squeezenet"] and "segnet stays here" in capsys.readouterr().out
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.safetensors")} == {
        "start/enet/from_random.safetensors",
        "start/elu_squeezenet/from_squeezenet1_1.safetensors",
    }


@pytest.mark.parametrize("content", [b"- a", b"trunk: ", b"a: &a [1]\nb: *a"])
def test_a_recipe_that_came_back_damaged_is_one_line(content):
    with pytest.raises(ContentError, match="^back/enet/recipe.yaml: .+$"):
        pack.start_name("back/enet/recipe.yaml", content)


def test_a_pack_is_no_zip_of_anything_else(camvid, tmp_path):
    pack_camvid(camvid, tmp_path / "camvid.zip")
    with zipfile.ZipFile(tmp_path / "camvid.zip") as archive:
        names = archive.namelist()
    assert len(names) == 2 * 16 and {name.partition("/")[0] for name in names} == {
        "train", "trainannot", "val", "valannot"
    }  # fmt: skip
