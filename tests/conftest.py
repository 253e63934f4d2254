"""Settings of every test: double precision, one thread, skips with their reason."""

import os
import shutil
import sys

import jaxtyping
import pytest
import torch

from scorda.cli.allocator import keep_freed_memory

# As the command does.
keep_freed_memory()
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_chromium():
    """Path of a Chromium (also named by $CHROMIUM), or None."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, CHROMIUM)), None)


# Tests that take minutes, by a part of their name. They start first, so that at the end no worker
# has one of them left while the other waits.
LONGEST = ("lorenz96-arctan: EnSF",)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not any(name in item.nodeid for name in LONGEST))
    absent = {}
    if find_chromium() is None:
        absent["browser"] = f"no Chromium: none of {', '.join(CHROMIUM)} is on the PATH"
    if not torch.cuda.is_available():
        absent["gpu"] = "no CUDA device"
    for item in items:
        for marker, reason in absent.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def double_precision():
    """Each test starts in float64 on one thread, and leaves torch as it found it."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def folders_of_modules():
    """Each test leaves the folders that modules come from as it found them; workers get them."""
    folders = list(sys.path)
    yield
    sys.path[:] = folders


@pytest.fixture
def single(double_precision):
    """Single precision, as in the commands and the benchmarks."""
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def shape_checks(request):
    """Slow tests run without shape checks, which would double their time; fast tests have them."""
    slow = any(request.node.get_closest_marker(name) for name in ("slow", "benchmark"))
    jaxtyping.config.update("jaxtyping_disable", slow)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def unchecked(shape_checks):
    """Switch the shape checks off, so that bad input reaches the function's own message."""
    jaxtyping.config.update("jaxtyping_disable", True)


@pytest.fixture
def chromium():
    """Path of the browser, for tests marked ``browser``."""
    return find_chromium()
