"""TensorRT's official Python bindings, imported on any machine over a stub of its libraries.

`make setup-test` puts each version of requirements/tensorrt-bindings.txt into a folder of its own
under .venv/tensorrt; a subprocess imports one of them as `tensorrt`. Classes, signatures and enum
members are the real ones; no builder, run time or engine can be made.
"""

import functools
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

SUPPORT = Path(__file__).resolve().parent
PROJECT = SUPPORT.parents[1]
PINS = PROJECT / "requirements" / "tensorrt-bindings.txt"
INSTALLED = Path(sys.prefix) / "tensorrt"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")
SONAMES = ("8", "10", "11")
# The official package of that name does the same; it comes with gigabytes of libraries. The
# stand-in for libcudart comes with it.
TENSORRT = """
from tensorrt_bindings import *
from tensorrt_bindings import __version__
import ctypes
from support.core import fake_cudart
ctypes.CDLL = fake_cudart.load
"""


def is_installed() -> bool:
    """Whether TensorRT itself is: the folder test/tensorrt can be imported by that name too."""
    found = importlib.util.find_spec("tensorrt")
    return found is not None and found.origin is not None


class Pin(NamedTuple):
    """A version of the bindings; ``has_wheel`` says whether there is one for this Python."""

    version: str
    has_wheel: bool

    @property
    def folder(self) -> Path:
        return INSTALLED / self.version


def missing(pin: Pin) -> str:
    """Why a test of this version cannot run here; empty if it can."""
    if pin.has_wheel:
        return ""
    python = ".".join(map(str, sys.version_info[:2]))
    return (
        f"BINDINGS OF TENSORRT {pin.version} NOT CHECKED: no wheel for Python {python} on "
        f"{platform.machine()}"
    )


def read_pins() -> list[Pin]:
    """What is pinned, oldest first."""
    lines = (line.partition("#")[0].strip() for line in PINS.read_text().splitlines())
    found = []
    for requirement in map(Requirement, filter(None, lines)):
        version = re.sub("^==", "", str(requirement.specifier))
        found.append(Pin(version, requirement.marker is None or requirement.marker.evaluate()))
    return found


@functools.lru_cache(maxsize=None)
def stubs() -> tempfile.TemporaryDirectory:
    """A folder with a package `tensorrt`, and in `lib` the libraries that every version wants."""
    folder = tempfile.TemporaryDirectory(prefix="segmentation_node_tensorrt_")
    root = Path(folder.name)
    (root / "lib").mkdir()
    stub, source = root / "lib" / "stub.so", SUPPORT / "data" / "tensorrt_stub.c"
    subprocess.run(["gcc", "-shared", "-fPIC", source, "-o", stub], check=True)
    for library in LIBRARIES:
        for major in SONAMES:
            (root / "lib" / f"lib{library}.so.{major}").symlink_to("stub.so")
    (root / "tensorrt").mkdir()
    (root / "tensorrt" / "__init__.py").write_text(TENSORRT)
    return folder


def run(pin: Pin, *arguments: str, libraries: str = "lib") -> subprocess.CompletedProcess:
    """Run Python where ``import tensorrt`` gives this version."""
    assert pin.folder.is_dir(), f"{pin.folder} is missing: run `make setup-test`"
    lib = os.path.join(stubs().name, libraries)
    paths = {
        "PYTHONPATH": os.pathsep.join(
            [stubs().name, str(pin.folder), str(PROJECT), str(PROJECT / "test")]
        ),
        "LD_LIBRARY_PATH": os.pathsep.join([lib, os.environ.get("LD_LIBRARY_PATH", "")]),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, **paths},
        cwd=stubs().name,
        capture_output=True,
        text=True,
        check=False,
    )


def read_listing(pin: Pin) -> dict:
    """What this version offers; see tensorrt_listing.py."""
    done = run(pin, str(SUPPORT / "tensorrt_listing.py"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
