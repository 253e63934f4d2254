"""Processes that train one network together, as ``torchrun`` starts them.

Every process holds the whole network and takes its rows of each batch.
`torch.nn.parallel.DistributedDataParallel` averages their gradients, over gloo on CPUs and NCCL on
GPUs, so that all processes take the same step. Without other processes every function here does
nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from scorda.core.shapes import Tensor

__all__ = [
    "agree",
    "count",
    "joined",
    "make_once",
    "rank",
    "replicated",
    "rows",
    "sum_over",
    "wait",
]


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _started() else 1


def rank() -> int:
    """Return the index of this process; process 0 is the one that writes and reports."""
    return dist.get_rank() if _started() else 0


@contextmanager
def joined(device: str = "cpu") -> Iterator[torch.device]:
    """Join the processes that ``torchrun`` has started, if it has, and give this one's device.

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


def replicated(module: nn.Module) -> nn.Module:
    """Give all processes the weights of process 0, and average the gradients of later calls.

    Every process must call the module once per step and then `backward`, and each parameter must
    have a part in the result.
    """
    if count() == 1:
        return module
    shared = DistributedDataParallel(module)
    shared.register_comm_hook(None, _averaged)
    return shared


def rows(total: int) -> slice:
    """Return the rows of a batch that are this process's: every `count`-th."""
    return slice(rank(), total, count())


def sum_over(x: Tensor) -> Tensor:
    """Replace a tensor by its sum over the processes, and return it."""
    if count() > 1:
        dist.all_reduce(x)
    return x


def agree(flag: bool) -> bool:
    """Return the flag of process 0 in all processes."""
    answer = torch.tensor([float(flag)])
    _share(answer)
    return bool(answer.item())


def make_once(make: Callable[[], Tensor]) -> Tensor:
    """Return in all processes the tensor that process 0 makes, while the others wait."""
    if count() == 1:
        return make()
    made = make() if rank() == 0 else None
    form = [None if made is None else (made.shape, made.dtype)]
    dist.broadcast_object_list(form, 0)
    if made is None:
        assert form[0] is not None
        made = torch.empty(form[0][0], dtype=form[0][1])
    _share(made)
    return made


def wait() -> None:
    """Wait until all processes are here."""
    if count() > 1:
        dist.barrier()


def _averaged(
    state: None,
    bucket: dist.GradBucket,  # type: ignore[name-defined]
) -> torch.futures.Future[Tensor]:
    """Average each gradient in a message of its own.

    DistributedDataParallel puts the gradients in another order after its first step. In messages
    of many gradients the processes would then be added in another order, and a run that is
    resumed would differ by rounding from one that is not.
    """
    # The annotations are checked by `register_comm_hook`, and must not be strings.
    for gradient in bucket.gradients():
        dist.all_reduce(gradient)
    done: torch.futures.Future[Tensor] = torch.futures.Future()
    done.set_result(bucket.buffer().div_(count()))
    return done


def _share(x: Tensor) -> None:
    """Replace a tensor by that of process 0."""
    if count() > 1:
        dense = x.contiguous()
        dist.broadcast(dense, 0)
        x.copy_(dense)


def _started() -> bool:
    return dist.is_available() and dist.is_initialized()
