"""A prior of another system of the same name is used, but not in silence."""

import warnings
from dataclasses import replace

import pytest

import scorda as sc
from scorda.diffusion.samplers import Ancestral

PRIOR = sc.load("lorenz96")
FEW = sc.SDA(PRIOR, sampler=Ancestral(4, 0, min_noise=0.01, max_noise=20.0))


def posed(**settings):
    system = sc.systems.Lorenz96(spinup=1.0, **settings)
    model = sc.ObservationModel(sc.Select(range(0, 40, 2)), std=1.0)
    return sc.twin_experiment(system, model, 4, 2, generator=0)[1]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"forcing": 10.0}, "forcing = 8.0 instead of 10.0"),
        ({"noise_std": 0.5}, "noise_std = 0.0"),
    ],
)
def test_another_forcing_or_model_error_is_said(settings, said):
    with pytest.warns(UserWarning, match=f"trained on lorenz96 with {said}"):
        FEW.assimilate(posed(**settings), 2, generator=0)


def test_the_same_system_and_priors_of_records_say_nothing():
    of_record = replace(PRIOR, provenance={"fields": 3})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FEW.assimilate(posed(), 2, generator=0)
        replace(FEW, prior=of_record).assimilate(posed(forcing=10.0), 2, generator=0)
