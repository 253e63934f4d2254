"""Networks that are trained on forecast ensembles, as priors of filters."""

from scorda.priors.network.amortised import AmortisedNetwork
from scorda.priors.network.online import OnlineNetwork
from scorda.priors.network.prior import NetworkPrior, NetworkTraining

__all__ = ["AmortisedNetwork", "NetworkPrior", "NetworkTraining", "OnlineNetwork"]
