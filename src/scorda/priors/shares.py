r"""How much each window says of a state, measured after the training of a network of windows.

A state of a long trajectory lies in 2k + 1 windows of a `UNet`, and each gives an estimate of it,
:math:`D^{(e)}` where it is state e of the window. The weighted mean of all of them knows 2k states
on either side, that of the window around it k. The weights with the least squared error are

.. math:: w = \frac{C^{-1} 1}{1^T C^{-1} 1}, \qquad
    C_{e e'} = E\, (D^{(e)} - x_0)^T (D^{(e')} - x_0),

one set for each noise level, measured on trajectories that the training has kept back. The mean
is a better denoiser of long trajectories, and still not the exact one.
"""

from __future__ import annotations

import torch

from scorda.core import rng
from scorda.core.shapes import Float, Tensor
from scorda.diffusion.denoisers import precondition
from scorda.nn.unet import UNet

__all__ = ["LEVELS", "fit_shares"]

# Noise levels at which they are measured, and pieces of trajectories, the last ones.
LEVELS, PIECES = 12, 32
# Of the mean of C, so that windows that all say the same count alike.
RIDGE = 1e-3


def fit_shares(
    network: UNet, z: Float[Tensor, "series time channels y x"], generator: rng.Seed
) -> None:
    """Set the shares of the windows of a network to those with the least squared error.

    Arguments:
        network: A trained network; one without shares stays as it is.
        z: Standardised trajectories, of which the last are used: the training keeps these back.
            If they are shorter than 4k + 1 states the shares stay those of the centres.
        generator: Of the noise.
    """
    states = 2 * network.half_width + 1
    length = 2 * states - 1
    if not len(network.shares) or z.shape[1] < length:
        return
    # Series, pieces of each, states of a piece.
    pieces = z[-PIECES:].unfold(1, length, length).movedim(-1, 2).flatten(0, 1)[-PIECES:]
    pieces = pieces.to(network.shares)
    stream = rng.as_generator(generator)
    for level, noise in enumerate(network.share_levels().to(pieces)):
        eps = rng.normal(len(pieces), tuple(pieces.shape[1:]), stream, like=pieces)
        windows = (pieces + noise * eps).unfold(1, states, 1).movedim(-1, 2).flatten(0, 1)
        with torch.no_grad():
            found = precondition(network, windows, noise.expand(len(windows)))
        found = found.unflatten(0, (len(pieces), states))
        # The state in the middle is state e of the window that begins 2k - e states before it.
        errors = torch.stack(
            [found[:, states - 1 - e, e] - pieces[:, states - 1] for e in range(states)]
        )
        rows = errors.flatten(1).double()
        C = rows @ rows.mT
        C += RIDGE * C.mean() * torch.eye(states).to(C)
        weights = torch.linalg.solve(C, torch.ones(states).to(C))
        network.shares[level] = weights / weights.sum()
