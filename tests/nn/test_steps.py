"""Networks of steps: before any training they are the denoisers of a linear-Gaussian step."""

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.diffusion.denoisers import GaussianDenoiser, precondition
from scorda.nn import build
from scorda.nn.steps import StepModes, StepUNet
from scorda.nn.unet import UNet


def modes(corrected=2):
    """Three modes of five components, which turn into each other; correlated errors of two."""
    network = StepModes(5, 3, corrected, width=8, blocks=1).double()
    Q, _ = torch.linalg.qr(rng.normal(5, (5,), rng.seeded(0)))
    turn = torch.eye(3)
    turn[:2, :2] = torch.tensor([[0.8, -0.6], [0.6, 0.8]])
    network.basis.copy_(Q[:, :3])
    network.advance.copy_(torch.tensor([[0.5, -0.4, 0.0], [0.4, 0.5, 0.0], [0.0, 0.0, 0.2]]))
    network.turn.copy_(turn)
    network.spectrum.copy_(torch.tensor([0.7, 0.3, 0.2, 0.05]))
    network.rest.fill_(0.1)
    return network


def levels(nu, x):
    return torch.tensor([2e-3, nu]).expand(len(x), 2)[:, :, None].expand(x.shape)


@pytest.mark.parametrize("nu", [0.02, 0.5, 20.0])
def test_modes_denoise_as_the_law_of_their_step(nu):
    network = modes()
    E, inner = network.basis, network.turn * network.spectrum[:3]
    outside = torch.eye(5) - E @ E.T
    cov = E @ inner @ network.turn.T @ E.T + 0.05 * outside
    advance = E @ network.advance @ E.T + 0.1 * outside
    x = rng.normal(6, (2, 5), rng.seeded(1))
    found = precondition(network, x, levels(nu, x))[:, 1]
    for known, u, own in zip(x[:, 0], x[:, 1], found, strict=True):
        exact = GaussianDenoiser.from_cov(advance @ known, cov)
        assert_close(own, exact.denoise(u[None], torch.tensor(nu))[0], rtol=1e-6, atol=1e-6)


def test_the_correction_moves_its_directions_alone():
    network, x = modes(1), rng.normal(4, (2, 5), rng.seeded(1))
    before = precondition(network, x, levels(0.5, x))[:, 1]
    torch.nn.init.ones_(network.correction.last.weight)
    moved = precondition(network, x, levels(0.5, x))[:, 1] - before
    direction = network.basis @ network.turn[:, 0]
    assert moved.norm(dim=1).min() > 1e-3
    assert_close((moved @ direction)[:, None] * direction, moved)


def test_a_unet_of_steps_begins_as_the_law_of_the_difference_and_then_sees_the_state():
    x = rng.normal(3, (2, 1, 8, 8), rng.seeded(0))
    step = build({"name": "step-unet", "channels": 1, "grid": [8, 8], "width": 4, "blocks": 1})
    assert isinstance(step, StepUNet)
    step.double().prepare(x)
    plain = UNet(1, (8, 8), 0, width=4, blocks=1).double()
    plain.prepare(x[:, 1:] - x[:, :-1])
    noise = levels(0.5, x.flatten(2)).view_as(x)
    found = precondition(step, x, noise)[:, 1]
    exact = x[:, 0] + precondition(plain, x[:, 1:] - x[:, :1], torch.full((3,), 0.5))[:, 0]
    assert_close(found, exact)
    torch.nn.init.ones_(step.unet.last.weight)
    moved = x.clone()
    # The difference stays the same, so that only what is given can tell.
    moved += 1.0
    other = precondition(step, moved, noise)[:, 1] - 1.0
    assert (other - precondition(step, x, noise)[:, 1]).abs().max() > 1e-4


def test_more_corrected_directions_than_modes_are_refused():
    with pytest.raises(ValueError, match="need 0 < corrected <= modes <= size"):
        StepModes(5, 3, 4)
