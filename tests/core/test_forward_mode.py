"""Forward differentiation in several threads at once."""

import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from scorda.core.forward_mode import directional


@pytest.fixture
def impatient():
    """Threads take turns often."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_threads_do_not_mix_their_levels(impatient):
    x = torch.linspace(0, 1, 5)

    def derivative(factor):
        return directional(lambda z: torch.sin(factor * z), x, torch.ones(5))

    factors = [float(i) for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(derivative, factors))
    for factor, along in zip(factors, found, strict=True):
        torch.testing.assert_close(along, factor * torch.cos(factor * x))
