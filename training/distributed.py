"""One process or many: what torchrun's processes share (DistributedDataParallel's helpers)."""

import gc
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed, nn


@dataclass(frozen=True)
class Group:
    """This process among those that train together; alone unless torchrun started it."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum over all processes, in place."""
        if self.world > 1:
            distributed.all_reduce(values)
        return values

    def share(self, count: int) -> slice:
        """This process's part of ``count`` things, which divide evenly."""
        part = count // self.world
        return slice(self.rank * part, (self.rank + 1) * part)

    def spread(self, module: nn.Module) -> None:
        """Make every process's buffers and parameters those of the first."""
        if self.world > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, 0)

    def wait(self) -> None:
        """Return once every process is here."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def join_group(device_type: str) -> Iterator[tuple[Group, torch.device]]:
    """The group that torchrun's environment describes, and this process's device."""
    if "LOCAL_RANK" not in os.environ:
        device = torch.device(device_type)
        if device.type == "cuda" and device.index is not None:
            # Streams, and with them CUDA graphs, are made on the current one.
            torch.cuda.set_device(device)
        yield Group(), device
        return
    is_cuda = device_type == "cuda"
    device = torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if is_cuda else device_type)
    if is_cuda:
        torch.cuda.set_device(device)
    # Gloo's threads abort a process that ends while they run, and the group ends them when nothing
    # holds it any more. DistributedDataParallel imports this: imported later, its functions'
    # default arguments would hold the group.
    importlib.import_module("torch.distributed.nn")
    distributed.init_process_group("nccl" if is_cuda else "gloo")
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size()), device
    finally:
        distributed.destroy_process_group()
        gc.collect()
