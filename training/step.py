"""One optimiser step: forward, loss, backward, clip, step, average."""

import contextlib
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from segmentation_node.errors import reason
from segmentation_node.networks.deploy import Normalise
from training.distributed import Group
from training.errors import TrainingError
from training.losses import Criterion
from training.recipe import Recipe
from training.run_folder import network_of_run
from training.state import TrainingState

AMP_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class TrainStep:
    """Changes a state by one batch, or this process's share of it."""

    def __init__(
        self,
        recipe: Recipe,
        state: TrainingState,
        criterion: Criterion,
        group: Group,
        accumulate: int = 1,
        compile_network: bool = False,
        cuda_graph: bool = False,
    ) -> None:
        self.recipe, self.state, self.criterion, self.group = recipe, state, criterion, group
        self.accumulate, self.is_graphed = accumulate, cuda_graph
        self.device = criterion.class_weights.device
        self.normalise = Normalise(recipe.mean_rgb, recipe.std_rgb).to(self.device)
        self.teachers = _load_teachers(recipe, len(criterion.class_weights), self.device)
        # All of them call the state's own parameters.
        self.parallel = _parallel(state.model, self.device) if group.world > 1 else None
        self.model: nn.Module = self.parallel or state.model
        if cuda_graph:
            self._record()
        elif compile_network:
            self.model = torch.compile(self.model)  # type: ignore[assignment]

    def __call__(self, images_nchw: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Train on float32 images in 0-255; gives this process's part of the loss, detached."""
        self.model.train()
        labels = self._thinned(labels)
        counts = self.group.sum(self.criterion.counts(labels))
        self.state.optimiser.zero_grad(set_to_none=True)
        images = images_nchw.chunk(self.accumulate)
        parts = list(zip(images, labels.chunk(self.accumulate), strict=True))
        losses = [
            self._backward(image, label, counts, is_last=index == len(parts) - 1)
            for index, (image, label) in enumerate(parts)
        ]
        self._update()
        return torch.stack(losses).sum()

    def _backward(
        self, images: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, is_last: bool
    ) -> torch.Tensor:
        # Gradients travel between processes once a step, with the last part.
        with contextlib.nullcontext() if is_last else self._without_sync():
            with self._autocast():
                logits = self._logits(images)
                teacher_logits = self._teach(images)
            logits = [self._thinned(output) for output in logits]
            loss = self.criterion(logits, labels, counts, teacher_logits)
            # DistributedDataParallel averages over processes; the loss is a sum over them.
            self.state.scaler.scale(loss * self.group.world).backward()
        return loss.detach()

    def _logits(self, images: torch.Tensor) -> list[torch.Tensor]:
        try:
            found: list[torch.Tensor] = self.model(_prepared(images, self.normalise))
        except ValueError as error:  # of a batch norm that sees one value
            count, _, height, width = images.shape
            raise TrainingError(
                f"the network does not train on {count} x {height}x{width} at a time "
                f"({reason(error)}); raise crop_size or batch_size, or lower --accumulate"
            ) from error
        return found

    def _update(self) -> None:
        state = self.state
        state.scaler.unscale_(state.optimiser)
        if self.recipe.max_gradient_norm > 0:
            nn.utils.clip_grad_norm_(state.model.parameters(), self.recipe.max_gradient_norm)
        state.scaler.step(state.optimiser)
        state.scaler.update()
        state.schedule.step()
        if state.averaged is not None:
            state.averaged.update_parameters(state.model.network)

    def _thinned(self, values: torch.Tensor) -> torch.Tensor:
        # The first row and column change from step to step: a transposed convolution at the end has
        # weights of its own for each, and those never looked at would stay random.
        stride, step = self.recipe.loss_stride, self.state.schedule.last_epoch
        return values[..., step % stride :: stride, step // stride % stride :: stride]

    @torch.no_grad()
    def _teach(self, images: torch.Tensor) -> torch.Tensor | None:
        if not self.teachers:
            return None
        # Each has all rows and columns that the loss looks at, then the next has them.
        turn = self.state.schedule.last_epoch // self.recipe.loss_stride**2
        network, normalise = self.teachers[turn % len(self.teachers)]
        return self._thinned(network(_prepared(images, normalise)))

    def _autocast(self) -> contextlib.AbstractContextManager:
        dtype = AMP_TYPES.get(self.recipe.precision)
        # A graph holds the casts of the weights: outside of it they would be those of one step.
        cached = not self.is_graphed
        return torch.autocast(
            self.device.type, dtype, enabled=dtype is not None, cache_enabled=cached
        )

    def _record(self) -> None:
        """Replace the model's training passes by CUDA graphs of them.

        A small network's step is mostly launches, hundreds each way; a graph is one.
        """
        if self.group.world > 1 or self.accumulate > 1:
            raise TrainingError(
                "--cuda-graph needs one process and --accumulate 1; found "
                f"{self.group.world} processes and --accumulate {self.accumulate}"
            )
        model = self.model.train()
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        shape = (self.recipe.batch_size, 3, *self.recipe.crop_size)
        sample = torch.zeros(shape, device=self.device)
        with self._autocast():
            torch.cuda.make_graphed_callables(
                model, (sample.contiguous(memory_format=torch.channels_last),)
            )
        # The passes before the recording were training steps of zeros for the batch norms.
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])

    def _without_sync(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.parallel is None else self.parallel.no_sync()


def _parallel(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    # Batch norm over the whole batch, as in one process; torch has it for GPUs only.
    if device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return DistributedDataParallel(model)


def _prepared(images: torch.Tensor, normalise: Normalise) -> torch.Tensor:
    return normalise(images).contiguous(memory_format=torch.channels_last)


def _load_teachers(
    recipe: Recipe, classes: int, device: torch.device
) -> list[tuple[nn.Module, Normalise]]:
    runs = recipe.distillation.teachers if recipe.distillation else ()
    return [_load_teacher(Path(run), classes, device) for run in runs]


def _load_teacher(run: Path, classes: int, device: torch.device) -> tuple[nn.Module, Normalise]:
    network, normalise = network_of_run(run, classes)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.requires_grad_(False), normalise.to(device)
