"""Makes one folder for the machine with the GPU: ``python -m tools.gpu.pack --camvid CAMVID``.

The checkout without models and results, CamVid's train and val as one packed file, a trunk, and
with ``--from`` the networks of an earlier run. In that folder: ``python -m tools.gpu.run OUTPUT``.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import ContentError, exit_code
from segmentation_node.files import Layout, new_folder
from segmentation_node.yaml_and_json import parse_yaml
from tools.gpu import (
    AGREEING_MODEL,
    CAMVID_FILE,
    MOST_CAMVID_BYTES,
    MOST_SENT_BYTES,
    PACK_FILE,
    ROOT,
    START_FOLDER,
    TRAININGS,
    TRUNK_FILE,
    GpuError,
)
from tools.gpu.parts import read_parts
from tools.gpu.pictures import pack_camvid
from tools.gpu.weights import unzipped
from training.pretrained import read_tensors

LEFT_HERE = ("models/", "benchmarks/results/")
MODEL_FILES = ("model.yaml", "model.onnx", "weights.safetensors")
LAYOUT = Layout("a folder packed for a GPU", ("*",), PACK_FILE, '"camvid":')
MANIFEST_BYTES = 4096
"""Room for what is written last."""


def pack(options: argparse.Namespace) -> int:
    """Make the folder. Raises GpuError where it would be too large; then nothing is left."""
    sources = [str(options.camvid), str(options.trunk), str(options.start or "")]
    with new_folder(str(options.output), LAYOUT, sources) as new:
        folder = Path(new)
        for path in sent_files(ROOT):
            _copy(ROOT / path, folder / path)
        for name in MODEL_FILES:
            path = Path("models", AGREEING_MODEL, name)
            _copy(ROOT / path, folder / path)
        _copy_trunk(options.trunk, folder / TRUNK_FILE)
        counts = pack_camvid(options.camvid, folder / CAMVID_FILE)
        room = MOST_SENT_BYTES - size_of(folder) - MANIFEST_BYTES
        sent = list(add_starts(options.start, folder, room)) if options.start else []
        size = check_sizes(folder)
        manifest = {"commit": commit(ROOT), "camvid": counts, "starts": sent, "bytes": size}
        (folder / PACK_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    print(
        f"{counts['train']} + {counts['val']} pictures, goes on from: {', '.join(sent) or 'none'}"
    )
    print(f"wrote {options.output}: {size / 1e6:.1f} MB")
    return 0


def sent_files(root: Path) -> list[Path]:
    """What the checkout holds and git does not ignore, without models and results."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = [name for name in listed.split("\0") if name and not name.startswith(LEFT_HERE)]
    return [Path(name) for name in names if (root / name).is_file()]


def commit(root: Path) -> str:
    """Of the checkout; ends in -dirty where files differ from it."""
    return _git(root, "describe", "--always", "--dirty").strip()


def add_starts(back: Path, folder: Path, room: int) -> Iterator[str]:
    """Add the networks that came back, the smallest first, as far as there is room."""
    found = dict(read_parts(back))
    weights = {
        network: unzipped(content)
        for network in TRAININGS
        if (content := found.get(f"{network}/weights.safetensors.z")) is not None
    }
    for network, content in sorted(weights.items(), key=lambda item: len(item[1])):
        if len(content) > room:
            print(f"{network} stays here: {len(content)} bytes, room for {room}")
            continue
        origin = start_name(f"{back}/{network}/recipe.yaml", found[f"{network}/recipe.yaml"])
        path = folder / START_FOLDER / network / f"{origin}.safetensors"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        room -= len(content)
        yield network


def start_name(name: str, content: bytes) -> str:
    """What weights go back to, by their recipe, over any number of runs: the card names the file.

    Raises ContentError, which calls the recipe ``name``.
    """
    recipe = parse_yaml(content, name)
    keys = ("start_weights", "trunk")
    if not isinstance(recipe, dict) or not all(isinstance(recipe.get(key), str) for key in keys):
        raise ContentError(name, "no recipe: expected the keys " + " and ".join(keys))
    if recipe["start_weights"]:
        return Path(recipe["start_weights"]).stem
    return f"from_{Path(recipe['trunk']).stem}" if recipe["trunk"] else "from_random"


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def check_sizes(
    folder: Path, most: int = MOST_SENT_BYTES, most_camvid: int = MOST_CAMVID_BYTES
) -> int:
    """The size of a folder in bytes. Raises GpuError where it or its CamVid is too large."""
    size, camvid = size_of(folder), (folder / CAMVID_FILE).stat().st_size
    if camvid > most_camvid:
        raise GpuError(f"CamVid packs to {camvid} bytes; at most {most_camvid} travel")
    if size > most - MANIFEST_BYTES:
        raise GpuError(f"the folder has {size} bytes; at most {most} travel")
    return size


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _copy_trunk(trunk: Path, target: Path) -> None:
    if trunk.suffix != ".safetensors":
        raise GpuError(f"{trunk}: expected SqueezeNet 1.1's weights as .safetensors")
    try:
        read_tensors(trunk)
    except ValueError as error:
        raise GpuError(str(error)) from error
    _copy(trunk, target)


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise GpuError(f"{root} is no checkout of git: {done.stderr.strip()}")
    return done.stdout


def main(arguments: list[str] | None = None) -> int:
    """Pack; a known error is one line and exit code 1."""
    parser = CommandParser(prog="python3 -m tools.gpu.pack", description=__doc__)
    parser.add_argument(
        "output",
        type=Path,
        nargs="?",
        default=ROOT / "out" / "gpu" / "pack",
        metavar="PACK",
        help="folder to make; default: out/gpu/pack",
    )
    parser.add_argument(
        "--camvid",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="CamVid: train, trainannot, val, ...",
    )
    parser.add_argument(
        "--trunk",
        type=Path,
        required=True,
        metavar="FILE",
        help="weights of SqueezeNet 1.1 in torchvision's naming, .safetensors",
    )
    parser.add_argument(
        "--from",
        dest="start",
        type=Path,
        metavar="BACK",
        help="what came back of an earlier run, which this one goes on from",
    )
    options = parser.parse_args(arguments)
    return exit_code(lambda: pack(options))


if __name__ == "__main__":
    sys.exit(main())
