"""Building and opening engines of the tiny model, for tests on stand-ins."""

import tiny

from segmentation_node import engine
from segmentation_node.backends import engine_files, open_backend


def build(card, options):
    """Build the engine that the options ask for; its path."""
    engine.make_engine(engine.Job(card, options, workspace_mib=64, timing_cache=""))
    return engine_of(card, options)


def engine_of(card, options):
    """Where that engine lies, or would lie."""
    machine = engine.look(engine.Job(card, options, 64, "")).machine
    return engine_files.engine_path(card, options, machine)


def open_engine(card, options):
    """The TensorRT backend."""
    return open_backend("tensorrt", card, options)


def batch(seed=0):
    """An image of noise as a batch."""
    return tiny.random_image(seed)[None]
