"""One thread for small states, whatever torch's default is.

An operation on a few thousand numbers is over before a second thread has woken up. Where the cores
are busy with other work, the threads then wait for each other at each of the many operations of a
cycle. `docs/reproducible.md` has figures.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

__all__ = ["SMALL", "few_threads", "one_thread"]

# Numbers below which a second thread saves little at best.
SMALL = 2**17
AS_IT_IS = nullcontext()
# Threads that torch began with: any other number is the user's choice.
_default = torch.get_num_threads()


def few_threads(numbers: int) -> AbstractContextManager[None]:
    """Compute on one thread in the block, if it is about fewer than `SMALL` numbers.

    A number of threads that was set by `torch.set_num_threads` stays.
    """
    threads = torch.get_num_threads()
    if threads == 1 or threads != _default or numbers >= SMALL:
        return AS_IT_IS
    return one_thread()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let each operation in the block take one thread, in this thread and in new ones."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
