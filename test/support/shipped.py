"""The networks and the shipped models as parameters of a test, the large ones slow."""

import pytest

from segmentation_node.networks import NETWORKS

LARGE = ("segnet", "segnet_camvid")
"""Of 29 M parameters: it trains and runs for seconds, and has the layers of ``segnet_basic``."""


def slow_if_large(name):
    """Marks for a test of this network or model."""
    return [pytest.mark.slow] if name in LARGE else []


def each_network(function):
    """Parametrise ``network`` by all of them; the large one is for ``make test-all``."""
    names = [pytest.param(name, marks=slow_if_large(name)) for name in sorted(NETWORKS)]
    return pytest.mark.parametrize("network", names)(function)


def each_of(folders):
    """Parametrise ``model`` by model folders; the large one is for ``make test-all``."""
    models = [pytest.param(path, id=path.name, marks=slow_if_large(path.name)) for path in folders]
    return pytest.mark.parametrize("model", models)
