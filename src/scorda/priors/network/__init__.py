"""Networks that are trained on forecast ensembles, as priors of filters."""

from scorda.priors.network.prior import NetworkPrior

__all__ = ["NetworkPrior"]
