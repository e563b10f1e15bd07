"""Where real data sets are: none is part of this repository."""

import os

import pytest

PROJECT = os.path.dirname(
    os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
)
ROOT = os.environ.get("SEGMENTATION_DATASETS", os.path.join(PROJECT, "..", "shared", "datasets"))


def folder_of(name):
    """The folder of a real data set; skips the test where it is absent."""
    folder = os.path.abspath(os.path.join(ROOT, name))
    if not os.path.isdir(folder):
        pytest.skip("NOT RUN: no real data in %s (SEGMENTATION_DATASETS names its parent)" % folder)
    return folder
