"""A GPU for ten minutes: pack here, run there, take what came back. See docs/gpu.md."""

from pathlib import Path
from typing import NamedTuple

from segmentation_node.errors import SegmentationError

ROOT = Path(__file__).resolve().parents[2]

MOST_SENT_BYTES = 64 << 20
"""Of everything that travels to the machine with the GPU."""
MOST_CAMVID_BYTES = 45_000_000
MOST_FILES = 8
"""That come back."""
PART_BYTES = 15_990_000
RUN_FILE, LOG_FILE = "run.json", "log.txt"
GPU_FILE, STEP_FILE = "gpu.json", "paper_tables.json"
OUTCOME_FILE = "outcome.json"
"""In a trained network's folder; it stands for all of that."""
OTHER_FILES = (RUN_FILE, LOG_FILE, GPU_FILE, STEP_FILE)
MOST_PARTS = MOST_FILES - len(OTHER_FILES)

PACK_FILE, CAMVID_FILE, TRUNK_FILE = "pack.json", "camvid.zip", "squeezenet1_1.safetensors"
START_FOLDER = "start"
"""Of the pack: NETWORK/FROM.safetensors, weights of an earlier run to go on from."""
AGREEING_MODEL = "elu_squeezenet_street"
"""Travels, so that classes on the GPU are compared by trained weights too."""


class GpuError(SegmentationError):
    """Something that cannot be packed, run or taken as asked."""


class Training(NamedTuple):
    """A network to train, and what decides how."""

    recipe: str  # in training/recipes; as many epochs as fit
    share: float  # of the time for all
    has_trunk: bool = False  # starts from the trunk that is sent


# In the order of training: what matters most first, what takes the most room last.
TRAININGS = {
    "fast_elu_squeezenet": Training("fast_elu_squeezenet_camvid_modern", 0.28, has_trunk=True),
    "elu_squeezenet": Training("elu_squeezenet_camvid_modern", 0.24, has_trunk=True),
    "enet": Training("enet_camvid_modern", 0.20),
    "segnet_basic": Training("segnet_basic_camvid_modern", 0.12),
    "segnet": Training("segnet_camvid_modern", 0.16),
}


class Limits(NamedTuple):
    """Seconds of each part of a run; they and what lies between fit into ten minutes."""

    conformance: float = 90
    training: float = 270
    latency: float = 90
    step: float = 30
