"""Building and opening engines of the tiny model, for tests on stand-ins."""

import os

from support.core import tiny

from segmentation_node import engine
from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.backends.tensorrt import engine_files

WORKSPACE_MIB = 48  # of a job


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


def job(folder, precision="fp32", card=None, **options):
    """What the command is asked to do: the tiny model's engine in this folder."""
    options = BackendOptions(precision=precision, engine_dir=str(folder), **options)
    return engine.Job(card or tiny.card(), options, WORKSPACE_MIB, timing_cache="")


def arguments(folder, *more):
    """The same as the command's arguments."""
    return ["--model", tiny.FOLDER, "--engine-dir", str(folder)] + list(more)


def names(folder):
    """The files in a folder, sorted."""
    return sorted(os.listdir(str(folder)))
