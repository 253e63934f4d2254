"""The figure of parameters shows the members, their weights, and the truth."""

import numpy as np
import pytest
import torch

from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.report import parameters, trajectories

SPACE = StateSpace((3,), 0.5, ("x", "rate", "level"), parameters=("rate", "level"))


def analysis(weights=None):
    states = torch.linspace(0, 1, 10)[:, None, None].expand(10, 6, 3).clone()
    states[..., 1] = states[..., 1] * torch.linspace(1.0, 0.1, 6)
    return Analysis(states, SPACE, weights)


def test_each_parameter_has_a_row_with_its_histograms():
    figure = parameters(analysis(), torch.full((6, 3), 0.25))
    over = [axis for axis in figure.axes if axis.collections]
    assert [axis.get_ylabel() for axis in over] == ["rate", "level"]
    shares = np.asarray(over[0].collections[0].get_array()).reshape(40, 6)
    assert np.allclose(shares.sum(0), 1)
    # At last all members are in the lowest tenth, the largest on its edge.
    assert np.isclose(shares[:5, -1].sum(), 1) and shares[:5, 0].sum() < 0.5
    assert np.allclose(over[0].lines[0].get_ydata(), 0.25)


def test_weights_count():
    weights = torch.zeros(10, 6)
    weights[9] = 1.0
    figure = parameters(analysis(weights))
    shares = np.asarray(figure.axes[2].collections[0].get_array()).reshape(40, 6)
    assert np.allclose(shares[-1], 1)


def test_trajectories_leave_parameters_to_their_figure():
    figure = trajectories(analysis())
    assert [axis.get_ylabel() for axis in figure.axes] == ["x"]


def test_a_posterior_without_parameters_has_no_such_figure():
    plain = Analysis(torch.zeros(2, 3, 1), StateSpace((1,)))
    with pytest.raises(ValueError, match="none is a parameter"):
        parameters(plain)
