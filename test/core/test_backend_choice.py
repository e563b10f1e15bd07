"""Which backend ``auto`` takes and why, and what is said where there is none."""

import sys
from dataclasses import replace

import pytest
from support.core import tiny
from support.core.tiny import assert_one_line

from segmentation_node import backends
from segmentation_node.backends import BACKENDS, BackendOptions, choose_backend, open_backend
from segmentation_node.errors import BackendError

IMPORTED = {name: name for name in ("onnxruntime", "openvino", "tensorrt", "torch")}


def pretend(monkeypatch, **states):
    """Let each backend be "accelerated", "usable", or missing for the reason given."""
    for name, state in dict({"openvino": "not installed"}, **states).items():
        reason = "" if state in ("accelerated", "usable") else state
        fast = state == "accelerated"
        monkeypatch.setattr(BACKENDS[name], "unavailable", classmethod(lambda _, r=reason: r))
        monkeypatch.setattr(BACKENDS[name], "unready", classmethod(lambda *_: ""))
        monkeypatch.setattr(BACKENDS[name], "accelerated", classmethod(lambda _, f=fast: f))


def test_auto_takes_the_first_backend_with_an_accelerator(monkeypatch):
    pretend(monkeypatch, tensorrt="not here", torch="accelerated", onnxruntime="usable")
    choice = choose_backend(tiny.card())
    assert choice.name == "torch"
    assert choice.summary == "auto: on the GPU; not tensorrt, see diagnostics"
    assert choice.details == "it can use this machine's accelerator; tensorrt: not here"
    pretend(monkeypatch, tensorrt="accelerated")
    choice = choose_backend(tiny.card())
    assert choice.name == "tensorrt"
    assert choice.summary == "auto: on the GPU"


def on_machine(monkeypatch, machine):
    monkeypatch.setattr(backends.platform, "machine", lambda: machine)


def test_auto_prefers_openvino_on_x86_and_says_why(monkeypatch):
    on_machine(monkeypatch, "x86_64")
    pretend(monkeypatch, tensorrt="no", torch="usable", onnxruntime="usable", openvino="usable")
    choice = choose_backend(tiny.card())
    assert choice.name == "openvino"
    assert choice.summary == (
        "auto: first here of openvino, onnxruntime, torch; not tensorrt, see diagnostics"
    )
    assert choice.details == (
        "no accelerator can be used; it runs on the CPU; onnxruntime, torch could too, but "
        "openvino comes first on x86_64; tensorrt: no"
    )


def test_auto_prefers_onnxruntime_on_another_cpu(monkeypatch):
    """OpenVINO was measured on x86-64 only."""
    on_machine(monkeypatch, "aarch64")
    pretend(monkeypatch, tensorrt="no", torch="usable", onnxruntime="usable", openvino="usable")
    choice = choose_backend(tiny.card())
    assert choice.name == "onnxruntime"
    assert "openvino, torch could too, but onnxruntime comes first on aarch64" in choice.details
    pretend(monkeypatch, onnxruntime="gone too", openvino="usable")
    assert choose_backend(tiny.card()).name == "openvino"


def test_auto_goes_on_to_what_is_installed_and_says_why(monkeypatch):
    pretend(monkeypatch, tensorrt="not here", torch="usable", onnxruntime="gone too")
    choice = choose_backend(tiny.card())
    assert choice.name == "torch"
    for refusal in ("tensorrt: not here", "openvino: not installed", "onnxruntime: gone too"):
        assert refusal in choice.details


def test_auto_leaves_out_what_is_not_ready_for_the_card(monkeypatch):
    pretend(monkeypatch, tensorrt="accelerated", torch="accelerated", onnxruntime="usable")
    monkeypatch.setattr(
        BACKENDS["tensorrt"], "unready", classmethod(lambda _, card, options: "none for tiny")
    )
    name, _, why = choose_backend(tiny.card())
    assert name == "torch"
    assert "tensorrt: none for tiny" in why


def test_auto_leaves_accelerators_alone_where_the_cpu_is_asked_for(monkeypatch):
    pretend(monkeypatch, tensorrt="not here", torch="accelerated", onnxruntime="usable")
    assert choose_backend(tiny.card(), BackendOptions(device="cpu")).name == "onnxruntime"
    assert choose_backend(tiny.card(), BackendOptions(device="cuda")).name == "torch"


def test_auto_leaves_out_what_the_card_has_no_artifact_for(monkeypatch):
    pretend(monkeypatch, tensorrt="not here", torch="accelerated", onnxruntime="usable")
    only_onnx = replace(tiny.card(), artifacts=tiny.card().artifacts[:1])
    name, _, why = choose_backend(only_onnx)
    assert name == "onnxruntime"
    assert "torch: the card has no weights artifact" in why


def test_auto_leaves_out_what_does_not_offer_the_precision(monkeypatch):
    pretend(monkeypatch, tensorrt="accelerated", torch="accelerated", onnxruntime="usable")
    name, _, why = choose_backend(tiny.card(), BackendOptions(precision="int8"))
    assert name == "onnxruntime"
    for other in ("tensorrt", "torch"):
        assert "%s: it offers no precision 'int8'" % other in why
    pretend(monkeypatch, tensorrt="no", torch="usable", onnxruntime="usable")
    assert choose_backend(tiny.card(), BackendOptions(precision="bf16")).name == "torch"


def test_auto_says_how_a_card_gets_int8(monkeypatch):
    pretend(monkeypatch, tensorrt="no", torch="usable", onnxruntime="usable", openvino="usable")
    card = replace(tiny.card(), artifacts=tiny.card().artifacts[:2])
    with pytest.raises(BackendError) as caught:
        choose_backend(card, BackendOptions(precision="int8"))
    expected = "onnxruntime: the card has no onnx_int8 artifact; add it with: python3 -m training"
    assert_one_line(caught, expected, "--variant int8")


def test_int8_is_offered_where_onnx_files_run_on_a_cpu():
    offering = sorted(name for name in BACKENDS if "int8" in BACKENDS[name].precisions)
    assert offering == ["onnxruntime", "openvino"]


def test_auto_gives_every_reason_where_nothing_can_run(monkeypatch):
    pretend(monkeypatch, tensorrt="reason A", torch="reason B", onnxruntime="reason C")
    with pytest.raises(BackendError) as caught:
        choose_backend(tiny.card())
    assert_one_line(
        caught, "tiny", "tensorrt: reason A", "torch: reason B", "onnxruntime: reason C"
    )


def test_an_unknown_backend_lists_the_known_ones():
    with pytest.raises(BackendError) as caught:
        open_backend("abacus", tiny.card(), BackendOptions())
    assert_one_line(caught, "'abacus'", "auto", *sorted(BACKENDS))


@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_a_missing_run_time_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, IMPORTED[name], None)
    with pytest.raises(BackendError) as caught:
        open_backend(name, tiny.card(), BackendOptions())
    assert_one_line(caught, "backend " + name, "is missing", "install")
