"""Processes that train one network together, as ``torchrun`` starts them.

Every process holds the whole network and takes its rows of each batch; sums over all processes
are the same numbers in each, so that all take the same step. Without other processes every
function here does nothing. Source: torch.distributed, gloo on CPUs and NCCL on GPUs. Gradients are
summed once per step in one buffer, after `backward`: with networks of a few megabytes there is
nothing to gain from sending parts of it earlier, which `DistributedDataParallel` would do.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from scorda.core.shapes import Tensor

__all__ = ["agree", "count", "joined", "make_once", "rank", "rows", "same", "sum_over", "wait"]


def count() -> int:
    """Number of processes."""
    return dist.get_world_size() if _started() else 1


def rank() -> int:
    """Index of this process; 0 is the one that writes and reports."""
    return dist.get_rank() if _started() else 0


@contextmanager
def joined(device: str = "cpu") -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` has started, if it has; gives this one's device.

    Arguments:
        device: "cpu", or "cuda" for one GPU per process of a machine.

    Raises:
        ValueError: If there is no such device.
    """
    local = int(os.environ.get("LOCAL_RANK", 0))
    if device not in ("cpu", "cuda"):
        raise ValueError(f"Got device = {device!r}: it is cpu or cuda.")
    if device == "cuda" and torch.cuda.device_count() <= local:
        raise ValueError(
            f"Process {local} has no GPU of its own ({torch.cuda.device_count()} found): "
            "start as many processes as there are, or use --device cpu."
        )
    where = torch.device(device, local) if device == "cuda" else torch.device(device)
    if "TORCHELASTIC_RUN_ID" not in os.environ or _started():
        yield where
        return
    if device == "cuda":
        torch.cuda.set_device(where)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
    try:
        yield where
    finally:
        dist.destroy_process_group()


def rows(total: int) -> slice:
    """Rows of a batch that are this process's: every `count`-th."""
    return slice(rank(), total, count())


def sum_over(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over the processes, in one message."""
    if count() == 1 or not tensors:
        return
    flat = torch.cat([t.flatten() for t in tensors])
    dist.all_reduce(flat)
    for t, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
        t.copy_(part.view(t.shape))


def same(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by that of process 0."""
    if count() > 1:
        for t in tensors:
            dense = t.contiguous()
            dist.broadcast(dense, 0)
            t.copy_(dense)


def agree(flag: bool) -> bool:
    """What process 0 says."""
    answer = torch.tensor([float(flag)])
    same([answer])
    return bool(answer.item())


def make_once(make: Callable[[], Tensor]) -> Tensor:
    """What process 0 makes, in all processes; the others wait."""
    if count() == 1:
        return make()
    made = make() if rank() == 0 else None
    form = [None if made is None else (made.shape, made.dtype)]
    dist.broadcast_object_list(form, 0)
    if made is None:
        assert form[0] is not None
        made = torch.empty(form[0][0], dtype=form[0][1])
    same([made])
    return made


def wait() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        dist.barrier()


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()
