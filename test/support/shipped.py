"""The shipped models as parameters of a test."""

import pytest

# Of 29 M parameters: seconds wherever it runs. Quick tests have it once, in test_backend_parity.
LARGE = "segnet_camvid"


def slow_if_large(name):
    """Marks for a test of this model."""
    return [pytest.mark.slow] if name == LARGE else []


def each_of(folders):
    """Parametrise ``model`` by model folders; the large one is for ``make test-all``."""
    models = [pytest.param(path, id=path.name, marks=slow_if_large(path.name)) for path in folders]
    return pytest.mark.parametrize("model", models)
