"""Fixtures of several files here."""

import shutil
from pathlib import Path

import pytest
from support.training_runs import write_camvid


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """A tiny CamVid, which nobody changes."""
    return write_camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="module")
def scored_in_fp32():
    """Exports score no bfloat16, which takes half of their time; test_export_int8.py is for it."""
    import training.card

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(training.card.MEASURED, "uint8", {"fp32": ["onnxruntime"]})
        yield


@pytest.fixture
def run(tmp_path, monkeypatch, scored_in_fp32):
    """A run's folder for ``support.small_exports.export``, which exports it on two frames."""
    from support.small_exports import TwoFrames, make_run

    import training.export

    monkeypatch.setattr(training.export, "open_data", lambda *_: TwoFrames())
    return make_run(tmp_path / "runs" / "small")


@pytest.fixture(scope="module")
def exported_once(tmp_path_factory, scored_in_fp32):
    """The export of that run as ``uint8`` and ``float``, which nobody changes."""
    from support.small_exports import TwoFrames, export, make_run

    import training.export

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training.export, "open_data", lambda *_: TwoFrames())
        run = make_run(tmp_path_factory.mktemp("exported") / "runs" / "small")
        return export(run, "--variant", "float", monkeypatch=patch)


@pytest.fixture
def exported(run, exported_once):
    """A copy of it, where ``export`` of ``run`` would put it."""
    return Path(shutil.copytree(exported_once, run.parent.parent / "models" / "small"))
