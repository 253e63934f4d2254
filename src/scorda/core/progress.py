"""A bar that shows on a terminal, or in a notebook, how far something is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from html import escape
from typing import ParamSpec, TypeAlias, TypeVar

__all__ = ["Progress", "bar", "heard", "told", "with_bar"]

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
# Called with how much is done and the total.
Progress: TypeAlias = Callable[[int, int], None]
# Seconds between two changes of a bar in a notebook.
PAUSE = 0.1


@contextmanager
def bar(label: str) -> Iterator[Progress]:
    """Give a function of (done, total) that moves a bar; nothing shows where nobody looks.

    Arguments:
        label: Text beside the bar, shown as it is.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress as Bar, TextColumn, TimeRemainingColumn

    screen = Console(stderr=True)
    if screen.is_jupyter:
        yield _in_notebook(label)
        return
    shown = Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeRemainingColumn(),
        console=screen,
        disable=not screen.is_terminal,
        transient=True,
    )
    with shown:
        task = shown.add_task(label, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def _in_notebook(label: str) -> Progress:
    """Show a bar below a cell, as HTML: that of rich would need an extension of the notebook."""
    from IPython.display import display

    def drawn(done: int, total: int) -> dict[str, str]:
        bar = f'<progress value="{done}" max="{total}"></progress>'
        words = f"{done}/{total}"
        page = f"<pre>{escape(label)} {bar} {words}</pre>"
        return {"text/plain": f"{label} {words}", "text/html": page}

    handle, moved = None, 0.0

    def move(done: int, total: int) -> None:
        nonlocal handle, moved
        now = time.monotonic()
        if handle is None:
            handle = display(drawn(done, total), raw=True, display_id=True)
        elif done == total or now > moved + PAUSE:
            handle.update(drawn(done, total), raw=True)
        else:
            return
        moved = now

    return move


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
