"""The network of modes is the exact denoiser of its Gaussian law until it has learned more."""

import pytest
import torch
from torch.testing import assert_close

from scorda.diffusion.denoisers import GaussianDenoiser, NetworkDenoiser
from scorda.nn import build

SIZE, MODES = 6, 3


def network(seed=0):
    generator = torch.Generator().manual_seed(seed)
    net = build({"name": "modes", "size": SIZE, "modes": MODES, "corrected": 2, "width": 8})
    basis = torch.linalg.qr(torch.randn(SIZE, MODES, generator=generator)).Q
    weights = torch.rand(MODES + 1, len(net.times), generator=generator)
    with torch.no_grad():
        net.basis.copy_(basis)
        net.spectrum.copy_(torch.tensor([9.0, 4.0, 1.0, 0.3]))
        net.memory.copy_(weights / weights.sum(1, keepdim=True))
    return net.double().eval()


def dense_cov(net, states):
    """Covariance of a flattened window, by its definition."""
    index = torch.arange(states)
    lag = (index[:, None] - index).abs().double()
    spaces = [net.spectrum[j] * torch.outer(e, e) for j, e in enumerate(net.basis.T)]
    rest = torch.eye(SIZE) - net.basis @ net.basis.T
    spaces.append(net.spectrum[-1] * rest)
    cov = torch.zeros(states * SIZE, states * SIZE)
    for j, space in enumerate(spaces):
        rho = sum(
            w * torch.exp(-lag / tau) for w, tau in zip(net.memory[j], net.times, strict=True)
        )
        cov += torch.kron(rho, space)
    return cov


@pytest.mark.parametrize("states", [1, 4, 9])
@pytest.mark.parametrize("noise", [0.02, 1.0, 50.0])
def test_denoiser_is_that_of_the_dense_covariance_for_any_number_of_states(states, noise):
    """Both are closed forms; only rounding is between them."""
    net, level = network(), torch.tensor(noise)
    x = torch.randn(3, states, 2, 3, generator=torch.Generator().manual_seed(1)) * (2 + noise)
    dense = GaussianDenoiser.from_cov(torch.zeros(states, 2, 3), dense_cov(net, states))
    # 1e-6: the basis is orthonormal to single precision, in which it was made.
    found = NetworkDenoiser(net).denoise(x, level)
    assert_close(found, dense.denoise(x, level), rtol=1e-6, atol=1e-6)


def test_jacobian_of_the_gaussian_part_is_symmetric():
    net = network()
    noise = torch.tensor([0.7])
    jacobian = torch.autograd.functional.jacobian(
        lambda v: net(v.reshape(1, 4, SIZE), noise).flatten(), torch.randn(4 * SIZE)
    )
    assert_close(jacobian, jacobian.T, rtol=1e-9, atol=1e-9)


def test_correction_changes_the_leading_modes_only():
    net = network()
    x, noise = torch.randn(2, 5, SIZE), torch.tensor([0.5, 2.0])
    before = net(x, noise)
    torch.nn.init.normal_(net.correction.last.weight)
    change = net(x, noise) - before
    assert change.abs().max() > 1e-3
    # Rounding of the projection.
    assert_close(change @ net.basis[:, 2:], torch.zeros(2, 5, 1), rtol=0, atol=1e-6)


def test_window_follows_the_law_that_was_loaded():
    net = network()
    x, noise = torch.randn(1, 5, SIZE), torch.tensor([0.5])
    net(x, noise)
    net.load_state_dict(network(seed=3).state_dict())
    assert_close(net(x, noise), network(seed=3)(x, noise))


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="corrected <= modes <= size"):
        build({"name": "modes", "size": 4, "modes": 5})
