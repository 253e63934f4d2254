"""The Gaussian-mixture filter and its posterior."""

from scorda.methods.gaussian_mixture.filter import GaussianMixtureFilter

__all__ = ["GaussianMixtureFilter"]
