"""Measurements, each a module with ``main(arguments)`` and what it shows in ``SHOWN``."""

from typing import NamedTuple


class Benchmark(NamedTuple):
    """A module of this package that writes results/<its name>.json."""

    measures: str
    quick: tuple[str, ...] = ()
    """Options that make it take seconds: to try it out, not to quote it."""
    options: tuple[str, ...] = ()
    """Options of every run by ``python -m benchmarks``."""
    needs: str = ""
    """What not every machine has; such a benchmark runs only where it is named."""


CAMVID = "CamVid: -- --root CAMVID"

# In the order in which they run.
BENCHMARKS = {
    "roofline": Benchmark("estimate of the least time on a Jetson TX1; computes, runs nothing"),
    "network_latency": Benchmark(
        "every network's whole graph, image to class map, in turns",
        quick=("--networks", "enet", "fast_elu_squeezenet", "--rounds", "1"),
    ),
    "host_cost": Benchmark(
        "what the node spends on a frame beside the network, stage by stage",
        quick=("--models", "fast_elu_squeezenet_camvid", "--frames", "10"),
    ),
    "end_to_end": Benchmark(
        "message in to class map out: this node and the usual one, in turns",
        quick=("--rounds", "1", "--turn-s", "0.5", "--models", "fast_elu_squeezenet_camvid"),
    ),
    "cameras": Benchmark(
        "several cameras into one node, and into one node each, in turns",
        quick=("--rounds", "1", "--turn-s", "3"),
    ),
    "deadline": Benchmark(
        "a hog on every core: p95 of processing with a deadline and without",
        quick=("--idle-s", "2", "--hog-s", "4", "--after-s", "2"),
    ),
    "boxes": Benchmark(
        "what a box head adds to a frame, and a step of its training",
        quick=("--frames", "2", "--rounds", "1"),
    ),
    "transport": Benchmark(
        "which middleware settings deliver camera images",
        quick=("--sizes", "640x360", "--frames", "10"),
    ),
    "paper_tables": Benchmark(
        "a training step of SegNet, and a batch over 1, 2 and 4 processes",
        quick=("--cases", "1x256x128", "--seconds", "2", "--steps", "2"),
    ),
    "evaluation_speed": Benchmark(
        "what reading and scoring cost the evaluation beside the network",
        quick=("--frames", "8", "--rounds", "1"),
        options=("--model", "fast_elu_squeezenet_camvid"),
        needs=CAMVID,
    ),
    "training_loop": Benchmark(
        "what loading and augmenting cost a training step",
        quick=("--images", "8", "--rounds", "1"),
        needs=CAMVID,
    ),
    "int8": Benchmark(
        "is an int8 form of a shipped model worth it: time and mean IoU",
        quick=("--frames", "8", "--rounds", "1", "--runs", "1"),
        needs=CAMVID,
    ),
    "gpu": Benchmark(
        "every network's latency and class agreement on a GPU",
        quick=("--device", "cpu", "--networks", "enet", "--frames", "3"),
        needs="an NVIDIA GPU",
    ),
}
