"""What several files of this folder share."""

import pytest
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
