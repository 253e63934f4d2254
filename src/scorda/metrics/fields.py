"""Scores and statistics of two-dimensional fields: SSIM, energy spectrum, exceedance."""

from __future__ import annotations

import numpy as np
import torch

from scorda.core.arrays import takes_arrays
from scorda.core.shapes import Float, Tensor
from scorda.metrics.series import as_series, time_mean

__all__ = ["csi", "spectrum", "ssim"]

# Wang et al. (2004): a Gaussian of this std, in grid points, cut off at 5 points either way.
WINDOW_STD = 1.5
WINDOW = 11


@takes_arrays
def ssim(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"],
    weights: Float[Tensor, "ensemble *time"] | None = None,
    per_step: bool = False,
    data_range: float | None = None,
) -> Float[Tensor, "*steps"]:
    r"""Return the structural similarity of the ensemble mean and the truth, then its time mean.

    .. math:: \frac{(2 \mu_x \mu_y + C_1) (2 \sigma_{xy} + C_2)}
        {(\mu_x^2 + \mu_y^2 + C_1) (\sigma_x^2 + \sigma_y^2 + C_2)}, \qquad
        C_1 = (0.01 R)^2, \; C_2 = (0.03 R)^2

    in Gaussian windows of 11 x 11 points, std 1.5, averaged over the windows that lie inside the
    field, and over the variables if there are several: 1 where both are equal. The last two axes
    of a truth are the field: ``(time, y, x)``, ``(time, variable, y, x)`` or one field ``(y, x)``.
    Steps at which a value of the truth is absent do not count. Computed by scikit-image, the extra
    ``scorda[ssim]``.

    Arguments:
        per_step: Return the score of each step, shape ``(time,)``.
        data_range: R, in the unit of the state. Default: largest less smallest value of the
            truth over all steps. State it where scores of different truths are compared.

    Raises:
        ValueError: If the fields are smaller than a window, or R is not positive.
        ImportError: If scikit-image is not installed.

    Source: Wang et al. (2004), IEEE Trans. Image Process. 13, 600, eq. 13.
    """
    if truth.ndim < 2 or min(truth.shape[-2:]) < WINDOW:
        raise ValueError(
            f"Got a truth of shape {tuple(truth.shape)}: SSIM needs fields of at least "
            f"{WINDOW} x {WINDOW} points on the last two axes."
        )
    field = truth.shape[-2:]
    if truth.ndim == 2:
        ensemble, truth = ensemble[:, None], truth[None]
    x, y, w = as_series(ensemble, truth, weights)
    present = ~y.isnan()
    R = float(y[present].max() - y[present].min()) if data_range is None else data_range
    if not R > 0:
        raise ValueError(f"Got the range {R} of the truth: SSIM needs a positive `data_range`.")
    complete = present.all(1, keepdim=True)
    means, truths = (
        values.double().reshape(len(y), -1, *field).numpy(force=True)
        for values in ((w * x).sum(0), y)
    )
    scores = [
        np.mean([_similarity(a, b, R) for a, b in zip(*step, strict=True)])
        for step in zip(means, truths, strict=True)
    ]
    series = y.new_tensor(np.array(scores))
    return series if per_step else time_mean(series, complete)


@takes_arrays
def csi(
    ensemble: Float[Tensor, "ensemble *shape"],
    truth: Float[Tensor, "*shape"],
    weights: Float[Tensor, "ensemble *time"] | None = None,
    level: float = 0.95,
    per_step: bool = False,
) -> Float[Tensor, "*steps"]:
    r"""Return the critical success index of the ensemble mean, for values above a quantile.

    .. math:: \frac{\text{hits}}{\text{hits} + \text{misses} + \text{false alarms}}

    The event is a value of at least the given quantile of all present values of the truth, with
    their sign. Events are counted over all steps together, so the result is not the mean of that
    of each step; 1 is best. The index is NaN where there is no event.

    Arguments:
        level: Level of the quantile.
        per_step: Return the index of each step, shape ``(time,)``.

    Raises:
        ValueError: If the level is not between 0 and 1.

    Source: Donaldson, Dyer & Kraus (1975), 9th Conf. Severe Local Storms; also named threat score.
    """
    if not 0 < level < 1:
        raise ValueError(f"Got level {level}: it is a probability between 0 and 1, such as 0.95.")
    x, y, w = as_series(ensemble, truth, weights)
    present, mean = ~y.isnan(), (w * x).sum(0)
    # Not torch's quantile, which refuses more than 2^24 values.
    threshold = float(np.quantile(y[present].numpy(force=True), level))
    happened, predicted = present & (y >= threshold), present & (mean >= threshold)
    hits, events = (happened & predicted).sum(1), (happened | predicted).sum(1)
    index = hits / events if per_step else hits.sum() / events.sum()
    # A member that diverged must show, not count as a miss.
    return index.to(y) + 0 * mean.sum(1 if per_step else (0, 1))


@takes_arrays
def spectrum(velocity: Float[Tensor, "*batch components y x"]) -> Float[Tensor, "*batch shells"]:
    r"""Return the kinetic energy of velocities on a periodic grid in shells of wavenumbers.

    .. math:: E(k) = \frac{1}{2} \sum_{k - 1/2 \le |\kappa| < k + 1/2} |\hat u(\kappa)|^2, \qquad
        \sum_k E(k) = \tfrac{1}{2} \langle |u|^2 \rangle

    with :math:`\hat u` the coefficients of the Fourier series, :math:`\kappa` in whole waves per
    domain, and k = 0, 1, ... to the corner of the resolved wavenumbers; those above n / 2 are
    incomplete. The angle brackets are the mean over the grid. Unit: that of the velocity squared.
    """
    ny, nx = velocity.shape[-2:]
    energy = torch.fft.fft2(velocity, norm="forward").abs().square().sum(-3) / 2
    wave_y, wave_x = (
        torch.fft.fftfreq(n, 1 / n, device=velocity.device, dtype=torch.float64) for n in (ny, nx)
    )
    shell = (wave_y[:, None].square() + wave_x.square()).sqrt().round().long()
    shells = energy.new_zeros(*velocity.shape[:-3], int(shell.max()) + 1)
    return shells.index_add(-1, shell.flatten(), energy.flatten(-2))


def _similarity(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise ImportError(
            "SSIM needs scikit-image: install the extra `scorda[ssim]`, or scikit-image."
        ) from error
    return structural_similarity(
        x,
        y,
        data_range=data_range,
        gaussian_weights=True,
        sigma=WINDOW_STD,
        use_sample_covariance=False,
    )
