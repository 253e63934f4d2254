"""Network priors from flat settings: those of the training beside those of the prior."""

from dataclasses import fields, replace

from scorda.priors.network.amortised import AmortisedNetwork
from scorda.priors.network.online import OnlineNetwork
from scorda.priors.network.prior import NetworkTraining

TRAINING = {field.name for field in fields(NetworkTraining)}


def changed(prior, **options):
    """The prior with other settings."""
    training = {name: options.pop(name) for name in TRAINING & options.keys()}
    return replace(prior, training=replace(prior.training, **training), **options)


def online(**options):
    """A prior with these settings, and the default for the others."""
    return changed(OnlineNetwork(), **options)


def amortised(prior, forecasts, space=None, model=None):
    """A network with the settings of a prior, trained once."""
    options = {name: getattr(prior, name) for name in ("axis", "base", "training")}
    return AmortisedNetwork.train(forecasts, space, model, **options)
