"""A fixture of several files here."""

import pytest
from support.training_runs import write_camvid


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A tiny CamVid, which nobody changes."""
    return write_camvid(tmp_path_factory.mktemp("camvid"))
