"""A bar that shows on a terminal, or in a notebook, how far something is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeAlias, TypeVar

__all__ = ["Progress", "bar", "heard", "told", "with_bar"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# Called with how much is done and the total.
Progress: TypeAlias = Callable[[int, int], None]


@contextmanager
def bar(label: str) -> Iterator[Progress]:
    """Give a function of (done, total) that moves a bar; nothing shows where nobody looks.

    Arguments:
        label: Text beside the bar, shown as it is.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn

    screen = Console(stderr=True)
    shown = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=screen,
        disable=not (screen.is_terminal or screen.is_jupyter),
        transient=True,
    )
    with shown:
        task = shown.add_task(label, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def told(progress: Progress | bool, label: str) -> Iterator[Progress]:
    """Give a function of (done, total): the given one, a bar (True), or a silent one."""
    if progress is True:
        with bar(label) as update:
            yield update
    else:
        yield progress or (lambda done, total: None)


def with_bar(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function take ``progress=True`` for a bar, by name."""

    @wraps(function)
    def shown(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if kwargs.get("progress") is not True:
            return function(*args, **kwargs)
        with bar(function.__name__) as update:
            kwargs["progress"] = update
            return function(*args, **kwargs)

    return shown


def heard(progress: Progress | bool | None) -> Progress | None:
    """Return the function that is told how much is done, if there is one."""
    return None if isinstance(progress, bool) else progress
