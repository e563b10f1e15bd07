"""What the imports of this folder are compared on."""

import pytest
from support.foreign_networks import pictures


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A folder of pictures."""
    return pictures(tmp_path_factory.mktemp("images") / "pictures")
