"""Measurements, each a module with ``main(arguments)`` and how it is shown in ``SHOWN``."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from segmentation_node.errors import exit_code

ROOT = Path(__file__).resolve().parents[1]


class Benchmark(NamedTuple):
    """A module of this package that writes results/<its name>.json."""

    quick: str = ""
    """Options that make it take seconds: to try it out, not to quote it."""
    needs: str = ""
    """What not every machine has; such a benchmark runs only where it is named."""


CAMVID = "CamVid: -- --root CAMVID"
MODEL = "fast_elu_squeezenet_camvid"
SIZES = [(320, 480), (360, 640), (720, 1280)]
"""(height, width); those that Treml et al. 2016 timed."""
CAMERA_SIZES = SIZES[1:]

# In the order in which they run.
BENCHMARKS = {
    "roofline": Benchmark(),
    "network_latency": Benchmark("--networks enet fast_elu_squeezenet --rounds 1"),
    "host_cost": Benchmark(f"--models {MODEL} --frames 10"),
    "end_to_end": Benchmark(f"--rounds 1 --turn-s 0.5 --models {MODEL}"),
    "cameras": Benchmark("--rounds 1 --turn-s 3"),
    "deadline": Benchmark("--idle-s 2 --hog-s 4 --after-s 2"),
    "boxes": Benchmark("--frames 2 --rounds 1"),
    "transport": Benchmark("--sizes 640x360 --frames 10"),
    "fleet": Benchmark("--drives 2 --frames 3 --rounds 1 --reports 3"),
    "paper_tables": Benchmark("--cases 1x256x128 --seconds 2 --steps 2"),
    "evaluation_speed": Benchmark("--frames 8 --rounds 1", CAMVID),
    "training_loop": Benchmark("--images 8 --rounds 1", CAMVID),
    "int8": Benchmark("--frames 8 --rounds 1 --runs 1", CAMVID),
    "gpu": Benchmark("--device cpu --networks enet --frames 3", "an NVIDIA GPU"),
}


def measures(name: str) -> str:
    """What a benchmark measures: its module's first sentence, read without importing it."""
    module = ast.parse((Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8"))
    first, _, _ = (ast.get_docstring(module) or "").partition("\n\n")
    return first.partition(": ")[2].rstrip(".").replace("\n", " ")


def end_with(main: Callable[[], int | None]) -> NoReturn:
    """End this process with a benchmark's ``main``: a known error is one line and exit code 1."""
    sys.exit(exit_code(lambda: main() or 0))
