"""PyTorch on CUDA or on the CPU: the network is built from ``networks/``, nothing is unpickled."""

import importlib
from contextlib import contextmanager
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Tuple, Union

import numpy as np

from segmentation_node.backends.base import (
    EXECUTIONS,
    Backend,
    BackendOptions,
    Prediction,
    gpu_index,
)
from segmentation_node.backends.torch_cuda import CudaRunner, choose_gpu, line_of
from segmentation_node.errors import BackendError, reason
from segmentation_node.model_card import ModelCard

# fp16 would work too, and take half as long again as fp32 (77 against 53 ms, with AVX512-FP16).
CPU_PRECISIONS = ("fp32", "bf16")


class TorchBackend(Backend):
    """Builds the card's network and loads ``weights.safetensors``. CUDA was never run.

    The weights are made for any number of images: ``batch`` says how many a run takes.
    """

    name = "torch"
    artifact_kind = "weights"
    precisions = ("fp32", "tf32", "fp16", "bf16")
    executions = EXECUTIONS
    runs_boxes = True
    boxes_kind = "weights_boxes"
    takes_any_batch = True

    @classmethod
    def unavailable(cls) -> str:
        try:
            importlib.import_module("torch")
            importlib.import_module("safetensors")
        except ImportError as error:
            return "PyTorch is missing (%s); install it with: pip install torch safetensors" % error
        except OSError as error:  # of a library that it opens by itself, as CUDA's
            return "PyTorch does not load (%s); install it anew" % reason(error)
        return ""

    @classmethod
    def accelerated(cls) -> bool:
        import torch

        return bool(torch.cuda.is_available())

    @classmethod
    def unready(cls, card: ModelCard, options: BackendOptions) -> str:
        if options.device.startswith("cuda") and not cls.accelerated():
            return "PyTorch sees no GPU"
        return ""

    @property
    def stages_ms(self) -> Dict[str, float]:
        """Parts of the last run, where they can be told apart and ``time_stages`` is on."""
        return self._runner.stages_ms()

    def time_stages(self) -> None:
        """From now on note when the parts of a run begin and end; costs some microseconds."""
        self._runner.time_stages()

    def _load(self, artifact_path: str) -> None:
        options = self.options
        self.input_shape = (options.batch or 1,) + self.input_shape[1:]
        try:
            device = _choose_device(options.device, options.precision)
            graphs = self._build(artifact_path, device)
            self._torch_device = device
            if options.execution.startswith("compiled"):
                graphs = [compiled(graph) for graph in graphs]
            self._runner = self._make_runner(graphs, device)
        except RuntimeError as error:
            raise BackendError(
                "backend torch: %s: cannot be loaded on %s: %s"
                % (artifact_path, options.device, line_of(error))
            ) from error
        self.device, self.execution = self._runner.device, self._runner.execution
        self.warnings = self._runner.warnings

    def _make_runner(self, graphs: List[Any], device: Any) -> Union["CpuRunner", CudaRunner]:
        options = self.options
        if device.type == "cpu":
            return CpuRunner(graphs, self.input_shape, options.threads, options.execution)
        return CudaRunner(graphs, device, self.input_shape, options.precision, options.execution)

    def _build(self, artifact_path: str, device: Any, box_head: Any = None) -> List[Any]:
        """The graphs without and, where the card has it, with confidence, over one network.

        With a box head in fp32.
        """
        import torch

        from segmentation_node.networks.deploy import DeployGraph, Normalise

        card = self.card
        precision = self.options.precision if box_head is None else "fp32"
        network = self._network(artifact_path, precision)
        normalise = Normalise(card.input.mean_rgb, card.input.std_rgb)
        trained = card.weights.trained_classes
        graphs = [
            DeployGraph(
                normalise,
                network,
                flag,
                trained_classes=trained,
                temperature=card.temperature,
                box_head=box_head,
            ).eval()
            for flag in ((False, True) if self.has_confidence else (False,))
        ]
        for graph in graphs:
            graph.to(device)
            graph.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return graphs

    def _network(self, artifact_path: str, precision: str) -> Any:
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from segmentation_node.networks import build_network
        from segmentation_node.networks.folding import fold_batch_norms, load_folded_or_not

        card = self.card
        try:
            network = build_network(card.network.name, len(card.labels), card.network.options)
            load_folded_or_not(network.eval(), load_file(artifact_path))
        except (ValueError, RuntimeError, SafetensorError) as error:
            raise BackendError(
                "%s: does not fit the card's network: %s" % (artifact_path, line_of(error))
            ) from error
        dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
        # The rest of the graph stays in float32: half precision would round mean and deviation.
        return fold_batch_norms(network).to(dtypes.get(precision, torch.float32))

    def _open_boxes(self) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from segmentation_node.networks.box_head import build_box_head

        card = self.card
        assert card.boxes is not None
        weights_path = card.artifact_path(self.artifact_kind)
        boxes_path = card.artifact_path(self.boxes_kind)
        network = self._network(weights_path, "fp32")
        try:
            head = build_box_head(len(card.boxes.classes), card.boxes.head, network)
            head.load_state_dict(load_file(boxes_path))
        except (ValueError, RuntimeError, SafetensorError) as error:
            raise BackendError(
                "%s: does not fit the card's box head: %s" % (boxes_path, line_of(error))
            ) from error
        self._features_graphs = self._build(weights_path, self._torch_device, head)
        self._box_head = head.eval().to(self._torch_device)

    def _run_with_features(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        maps = self._eagerly(self._features_graphs[int(with_confidence)], image_nhwc)
        return Prediction(maps[0], maps[1] if with_confidence else None, maps[-1])

    def _run_boxes(
        self, features_1chw: np.ndarray, rois_xyxy: np.ndarray
    ) -> Tuple[np.ndarray, np.ndarray]:
        scores, deltas = self._eagerly(self._box_head, features_1chw, rois_xyxy)
        return scores, deltas

    def _eagerly(self, module: Any, *arrays: np.ndarray) -> List[np.ndarray]:
        """What a module gives for these, whatever ``execution`` is."""
        import torch

        try:
            with torch.inference_mode(), self._runner.in_fp32():
                inputs = [torch.tensor(values).to(self._torch_device) for values in arrays]
                return [output.cpu().numpy() for output in module(*inputs)]
        except RuntimeError as error:
            raise BackendError("backend torch: the run failed: %s" % line_of(error)) from error

    def _run(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        try:
            maps_nhw = self._runner.run(image_nhwc, with_confidence)
        except RuntimeError as error:
            raise BackendError("backend torch: the run failed: %s" % line_of(error)) from error
        return Prediction(maps_nhw[0], maps_nhw[1] if with_confidence else None)

    def _close(self) -> None:
        self._runner.close()
        if self._has_boxes:
            del self._features_graphs, self._box_head


class CpuRunner:
    """The deployed graphs on the CPU; image and maps in buffers that are kept.

    ``graphs`` are the ones without and with confidence; 0 threads leaves PyTorch's own number.
    """

    device = "cpu"

    def __init__(
        self, graphs: List[Any], input_shape: Tuple[int, ...], threads: int, execution: str
    ) -> None:
        import torch

        if execution.endswith("graph"):
            raise BackendError(
                "backend torch: execution %r needs CUDA; choose auto, eager or compiled on the CPU"
                % execution
            )
        self.execution = "eager" if execution == "auto" else execution
        self.warnings: List[str] = []
        self._torch = torch
        self._threads = threads
        self._graphs: List[Callable[[Any], Any]] = list(graphs)
        self._image = torch.zeros(input_shape, dtype=torch.uint8)
        self._maps = [torch.empty(input_shape[:3], dtype=torch.uint8) for _ in graphs]
        self._image_nhwc = self._image.numpy()
        self._maps_nhw = [item.numpy() for item in self._maps]
        if self.execution == "compiled":
            # Compiling happens in the first run: here, not in the first frame.
            for with_confidence in (False, True)[: len(graphs)]:
                self.run(self._image_nhwc, with_confidence)

    def run(self, image_nhwc: np.ndarray, with_confidence: bool) -> List[np.ndarray]:
        """Image uint8 (N, H, W, 3) -> class map and, if asked for, confidence, uint8 (N, H, W)."""
        np.copyto(self._image_nhwc, image_nhwc)
        with self._torch.inference_mode(), thread_count(self._threads):
            results = self._graphs[int(with_confidence)](self._image)
            for kept, result in zip(self._maps, results):
                kept.copy_(result)
        return self._maps_nhw

    def in_fp32(self) -> ContextManager[None]:
        """Around what runs beside the graphs."""
        return thread_count(self._threads)

    def time_stages(self) -> None:
        """Nothing to do: a run is one part here."""

    def stages_ms(self) -> Dict[str, float]:
        """Empty: a run is one part here."""
        return {}

    def close(self) -> None:
        """Free the network."""
        self._graphs = []


def compiled(graph: Any) -> Any:
    """The graph through torch.compile; what cannot be compiled whole is an error, no fall-back."""
    import torch
    import torch._dynamo.config

    # Eight by default, of one function: all graphs of all models that this process loads are one.
    torch._dynamo.config.cache_size_limit = max(256, torch._dynamo.config.cache_size_limit)
    return torch.compile(graph, dynamic=False, fullgraph=True)


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """PyTorch on this many CPU threads for a while; the number is the whole process's."""
    import torch

    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads:
            torch.set_num_threads(before)


def _choose_device(wanted: str, precision: str) -> Any:
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted != "cpu" and gpu_index(wanted) is None:
        raise BackendError(
            "backend torch: device %r is not offered; choose auto, cpu, cuda or cuda:N" % wanted
        )
    if wanted != "cpu":
        return choose_gpu(wanted, precision)
    if precision not in CPU_PRECISIONS:
        raise BackendError(
            "backend torch: precision %r needs CUDA; choose %s on the CPU"
            % (precision, " or ".join(CPU_PRECISIONS))
        )
    return torch.device("cpu")
