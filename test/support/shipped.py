"""The networks and the shipped models as parameters of a test; some are for ``make test-all``."""

import pytest

from segmentation_node.networks import NETWORKS

LARGE = ("segnet", "segnet_camvid", "segnet_basic_camvid")
"""They run for seconds; ``segnet``, of 29 M parameters, has the layers of ``segnet_basic``, and
that network is exported and run at a small size in the quick tests too."""

SECONDS = ("elu_squeezenet_camvid", "fast_elu_squeezenet_street")
"""Of networks of which another shipped model is tested in the same way."""


def slow_if_large(name):
    """Marks for a test of this network or model."""
    return [pytest.mark.slow] if name in LARGE else []


def each_network(function):
    """Parametrise ``network`` by all of them; the large one is for ``make test-all``."""
    names = [pytest.param(name, marks=slow_if_large(name)) for name in sorted(NETWORKS)]
    return pytest.mark.parametrize("network", names)(function)


def one_of_each_network(argument, models):
    """Parametrise it by model folders or cards; large ones and ``SECONDS`` are slow."""
    params = [
        pytest.param(
            model,
            id=model.name,
            marks=[pytest.mark.slow] if model.name in LARGE + SECONDS else [],
        )
        for model in models
    ]
    return pytest.mark.parametrize(argument, params)
