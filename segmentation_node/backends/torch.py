"""PyTorch on CUDA or on the CPU: the network is built from ``networks/``, nothing is unpickled."""

import importlib
from typing import Any, List

import numpy as np

from segmentation_node.backends.base import Backend, Prediction
from segmentation_node.errors import BackendError


class TorchBackend(Backend):
    """Builds the card's network and loads ``weights.safetensors``. CUDA was never run."""

    name = "torch"
    artifact_kind = "weights"
    precisions = ("fp32", "tf32", "fp16", "bf16")

    @classmethod
    def unavailable(cls) -> str:
        try:
            importlib.import_module("torch")
            importlib.import_module("safetensors")
        except ImportError as error:
            return "PyTorch is missing (%s); install it with: pip install torch safetensors" % error
        return ""

    @classmethod
    def accelerated(cls) -> bool:
        import torch

        return bool(torch.cuda.is_available())

    def _load(self, artifact_path: str) -> None:
        import torch

        self._torch = torch
        self._device = self._choose_device()
        self._dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(
            self.options.precision, torch.float32
        )
        self._threads_before = torch.get_num_threads()
        if self._device.type == "cpu" and self.options.num_threads:
            torch.set_num_threads(self.options.num_threads)
        self._tf32 = self.options.precision == "tf32"
        self._graphs = self._build(artifact_path)
        self.device = str(self._device)
        if self._device.type == "cuda":
            self.device = "%s (%s)" % (self._device, torch.cuda.get_device_name(self._device))

    def _build(self, artifact_path: str) -> List[Any]:
        """The graphs without and with confidence, over one network."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from segmentation_node.networks import build_network
        from segmentation_node.networks.deploy import DeployGraph, Normalise

        card = self.card
        try:
            network = build_network(card.network.name, len(card.labels), card.network.options)
            network.load_state_dict(load_file(artifact_path))
        except (ValueError, RuntimeError, SafetensorError) as error:
            raise BackendError(
                "%s: does not fit the card's network: %s"
                % (artifact_path, " ".join(str(error).split()))
            ) from error
        normalise = Normalise(card.input.mean_rgb, card.input.std_rgb)
        trained = card.weights.trained_classes
        graphs = [
            DeployGraph(normalise, network, flag, trained_classes=trained).eval()
            for flag in (False, True)
        ]
        for graph in graphs:
            graph.to(self._device, self._dtype)
            graph.to(memory_format=self._torch.channels_last)  # type: ignore[call-overload]
        return graphs

    def _choose_device(self) -> Any:
        torch = self._torch
        wanted = self.options.device
        if wanted == "auto":
            wanted = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            device = torch.device(wanted)
        except RuntimeError:
            device = None
        if device is None or device.type not in ("cpu", "cuda"):
            raise BackendError(
                "backend torch: device %r is not offered; choose auto, cpu, cuda or cuda:N" % wanted
            )
        if device.type == "cuda" and not torch.cuda.is_available():
            raise BackendError("backend torch: device %r: PyTorch finds no CUDA GPU here" % wanted)
        if device.type == "cpu" and self.options.precision in ("tf32", "fp16"):
            raise BackendError(
                "backend torch: precision %r needs CUDA; choose fp32 or bf16 on the CPU"
                % self.options.precision
            )
        return device

    def _run(self, image_nhwc: np.ndarray, with_confidence: bool) -> Prediction:
        torch = self._torch
        graph = self._graphs[1 if with_confidence else 0]
        torch.backends.cuda.matmul.allow_tf32 = self._tf32
        torch.backends.cudnn.allow_tf32 = self._tf32
        try:
            with torch.no_grad():
                outputs = graph(torch.from_numpy(image_nhwc).to(self._device))
                arrays = [output.cpu().numpy() for output in outputs]
        except RuntimeError as error:
            raise BackendError(
                "backend torch: the run failed: %s" % " ".join(str(error).split())
            ) from error
        return Prediction(arrays[0], arrays[1] if with_confidence else None)

    def _close(self) -> None:
        self._graphs = []
        # The count is the whole process's: others must not run on this backend's.
        self._torch.set_num_threads(self._threads_before)
        if self._device.type == "cuda":
            self._torch.cuda.empty_cache()
