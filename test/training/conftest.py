"""Fixtures of several files here."""

import pytest
from support.training_runs import write_camvid


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A tiny CamVid, which nobody changes."""
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run's folder for ``support.small_exports.export``, which exports it on two frames."""
    from support.small_exports import TwoFrames, make_run

    import training.export

    monkeypatch.setattr(training.export, "open_data", lambda *_: TwoFrames())
    return make_run(tmp_path / "runs" / "small")
