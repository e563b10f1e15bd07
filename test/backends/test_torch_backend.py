"""The torch backend on the CPU: threads, buffers, batches, precisions, and what needs a GPU."""

import gc
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from support import network_spy
from support.core import tiny
from support.core.tiny import assert_one_line
from support.network_spy import batch

from segmentation_node.backends import BackendOptions, open_backend
from segmentation_node.errors import BackendError
from segmentation_node.networks import NETWORKS, build_network
from segmentation_node.networks.deploy import DeployGraph, Normalise
from segmentation_node.networks.folding import fold_batch_norms

CPU = BackendOptions(device="cpu")


@pytest.fixture(autouse=True)
def spy(monkeypatch):
    return network_spy.install(monkeypatch)


def test_it_computes_on_its_own_number_of_threads_and_leaves_the_process_its_number(spy):
    before = torch.get_num_threads()
    seen = spy(torch.get_num_threads)
    with open_backend("torch", tiny.card(), replace(CPU, num_threads=before + 1)) as first:
        with open_backend("torch", tiny.card(), replace(CPU, num_threads=before + 2)) as second:
            for backend in (first, second, first):
                backend.run(batch(0))
                assert torch.get_num_threads() == before
    assert seen == [before + 1, before + 2, before + 1]
    assert torch.get_num_threads() == before


def test_a_failed_run_leaves_the_process_its_number_of_threads(spy):
    before = torch.get_num_threads()

    def fail():
        raise RuntimeError("as torch\nfails")

    with open_backend("torch", tiny.card(), replace(CPU, num_threads=before + 1)) as backend:
        spy(fail)
        with pytest.raises(BackendError) as caught:
            backend.run(batch(0))
    assert_one_line(caught, "backend torch: the run failed: as torch fails")
    assert torch.get_num_threads() == before


def test_maps_come_in_the_same_buffers_every_time():
    with open_backend("torch", tiny.card(), CPU) as backend:
        first = backend.run(batch(0), True)
        second = backend.run(batch(1), True)
    assert np.shares_memory(first.class_map_nhw, second.class_map_nhw)
    assert np.shares_memory(first.confidence_nhw, second.confidence_nhw)


@pytest.mark.parametrize("size", [2, 4])
def test_a_batch_is_what_its_images_are_alone(size):
    images = batch(*range(size))
    with open_backend("torch", tiny.card(), replace(CPU, batch=size)) as backend:
        assert backend.input_shape == (size, 6, 8, 3)
        found = backend.run(images, True)
        for index, image in enumerate(images):
            np.testing.assert_array_equal(found.class_map_nhw[index], tiny.classify(image))
            assert abs(found.confidence_nhw[index] - tiny.confidence(image)).max() <= 1.0
        with pytest.raises(BackendError) as caught:
            backend.run(images[:1])
    assert_one_line(caught, "received uint8 (1, 6, 8, 3)", f"uint8 ({size}, 6, 8, 3)")


def test_a_model_without_confidence_gives_none():
    with open_backend("torch", replace(tiny.card(), outputs=["class_map"]), CPU) as backend:
        assert backend.run(batch(0)).confidence_nhw is None
        with pytest.raises(BackendError) as caught:
            backend.run(batch(0), with_confidence=True)
    assert_one_line(caught, "gives no confidence")


def test_gradients_and_warnings_stay_away(spy):
    seen = spy(torch.is_inference_mode_enabled)
    image = batch(0)
    image.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_backend("torch", tiny.card(), CPU) as backend:
            backend.run(image, True)
    assert seen == [True]
    assert not torch.is_inference_mode_enabled()


def test_normalisation_stays_in_full_precision():
    """Mean and deviation rounded to bfloat16 would move every pixel."""
    card = tiny.card()
    card = replace(card, input=replace(card.input, mean_rgb=[123.675] * 3, std_rgb=[58.395] * 3))
    with open_backend("torch", card, replace(CPU, precision="bf16")) as backend:
        graph = backend._runner._graphs[0]
        normalise = graph.normalise(torch.full((1, 3, 1, 1), 125.0))
        assert normalise.flatten()[0].item() == pytest.approx((125 - 123.675) / 58.395, rel=1e-4)
        assert {item.dtype for item in graph.network.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("execution", ["graph", "compiled_graph"])
def test_a_cuda_graph_needs_cuda(execution):
    with pytest.raises(BackendError) as caught:
        open_backend("torch", tiny.card(), replace(CPU, execution=execution))
    assert_one_line(caught, repr(execution), "needs CUDA", "eager")


def test_int8_is_refused():
    with pytest.raises(BackendError) as caught:
        open_backend("torch", tiny.card(), replace(CPU, precision="int8"))
    assert_one_line(caught, "backend torch", "'int8'", "['fp32', 'tf32', 'fp16', 'bf16']")


@pytest.mark.parametrize("precision", ["fp16", "tf32"])
def test_precisions_that_only_a_gpu_is_good_at(precision):
    with pytest.raises(BackendError) as caught:
        open_backend("torch", tiny.card(), replace(CPU, precision=precision))
    assert_one_line(caught, repr(precision), "needs CUDA", "fp32 or bf16")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_a_network_can_be_compiled_whole(name):
    """Traced by torch.compile without a break, where a break would be an error to the user."""
    torch.manual_seed(0)
    network = fold_batch_norms(build_network(name, 3, {}).eval())
    graph = DeployGraph(Normalise([0.0] * 3, [255.0] * 3), network, True).eval()
    image = torch.randint(0, 256, (1, 37, 45, 3), dtype=torch.uint8)
    whole = torch.compile(graph, dynamic=False, fullgraph=True, backend="eager")
    with torch.inference_mode():
        for found, expected in zip(whole(image), graph(image), strict=True):
            assert torch.equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_it_gives_the_same(precision):
    options = replace(CPU, precision=precision)
    with open_backend("torch", tiny.card(), options) as eager:
        with open_backend("torch", tiny.card(), replace(options, execution="compiled")) as backend:
            assert backend.execution == "compiled"
            for seed in range(3):
                found, expected = backend.run(batch(seed), True), eager.run(batch(seed), True)
                equal = found.class_map_nhw == expected.class_map_nhw
                assert equal.all() if precision == "fp32" else equal.mean() > 0.9
                assert backend.run(batch(seed)).confidence_nhw is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: there is no CUDA GPU")
@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_gpu_memory_does_not_grow_and_comes_back(execution):
    before = torch.cuda.memory_allocated()
    options = BackendOptions(device="cuda", execution=execution)
    with open_backend("torch", tiny.card(), options) as backend:
        for _ in range(10):
            backend.run(batch(0), True)
        used = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
        for _ in range(1000):
            backend.run(batch(0), True)
        assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == used
    del backend
    gc.collect()
    assert torch.cuda.memory_allocated() == before
