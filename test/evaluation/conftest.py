"""What several files of this folder share."""

import shutil
from pathlib import Path

import pytest
from support.fleets import fleet
from support.linear_model import write_model
from support.small_bags import SIZE, drive, write_bag


@pytest.fixture(scope="module")
def fleet_data(tmp_path_factory):
    """Four bags of 3 to 6 frames, and a model."""
    folder = tmp_path_factory.mktemp("fleet")
    write_model(folder / "model", SIZE)
    for index in range(4):
        write_bag(folder / ("drive%d" % index), "mcap", drive(3 + index, 10 * index))
    return folder


@pytest.fixture(scope="module")
def scored_once(fleet_data, tmp_path_factory):
    """The reports of these drives by two workers, which nobody changes."""
    out = tmp_path_factory.mktemp("scored") / "out"
    assert fleet(fleet_data, out, "--jobs", 2) == 0
    return out


@pytest.fixture
def scored(scored_once, tmp_path):
    """A copy of them in the test's folder."""
    return Path(shutil.copytree(scored_once, tmp_path / "out"))
