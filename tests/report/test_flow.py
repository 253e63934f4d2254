"""Panels and animations of the vorticity: what is drawn is what was computed."""

import math

import numpy as np
import pytest
import torch

from scorda import report as plot
from scorda.core.rng import normal, seeded
from scorda.core.space import StateSpace
from scorda.observations.analysis import Analysis
from scorda.observations.fluid import Vorticity
from scorda.observations.masks import Mask
from scorda.observations.model import ObservationModel
from scorda.observations.observations import Observations
from scorda.observations.operators import Chain, Pointwise, Select
from scorda.observations.spatial import Average, Stride
from scorda.store.groups import observation_table

N = 12
AXIS = 2 * math.pi * np.arange(N) / N
PERIOD = {"y": 2 * math.pi, "x": 2 * math.pi}
SPACE = StateSpace((2, N, N), 0.2, ("u", "v"), {"y": AXIS, "x": AXIS}, PERIOD)
STATES = normal(4, (5, 2, N, N), seeded(0), torch.ones(1, dtype=torch.float64))
TRUTH = STATES[0] + 0.1
STEPS = [0, 3]
SIGMOID = Pointwise(torch.sigmoid)


def observed(operator, steps=(0, 4)):
    model = ObservationModel(operator, std=0.1)
    return Observations(model, steps, model.operator(TRUTH[list(steps)]))


def rows(figure):
    """Drawn collections and images, by row and column; None where there is nothing."""
    panels = [axes for axes in figure.axes if not axes.get_label()]
    table, names = {}, []
    for axes in panels:
        if axes.get_ylabel():
            names.append(axes.get_ylabel())
        drawn = [*axes.images, *axes.collections]
        table.setdefault(names[-1], []).append(drawn[0] if drawn else None)
    return table


def test_a_negative_step_counts_from_the_end():
    last = STATES.shape[1] - 1
    pair = [rows(plot.panels(Analysis(STATES, SPACE), [k], TRUTH)) for k in (last, -1)]
    for name, images in pair[0].items():
        np.testing.assert_array_equal(images[0].get_array(), pair[1][name][0].get_array())


def test_panels_show_the_vorticity_on_one_symmetric_scale():
    weights = torch.rand(4, 5, generator=seeded(1))
    weights = weights / weights.sum(0)
    figure = plot.panels(Analysis(STATES, SPACE, weights), STEPS, TRUTH, observed(Average(2)), 2)
    table = rows(figure)
    assert list(table) == ["Truth", "Observed", "Member 0", "Member 1", "Mean", "Std"]
    curl = Vorticity()(STATES)[:, STEPS]
    mean = torch.einsum("et,etyx->tyx", weights[:, STEPS], curl)
    std = torch.einsum("et,etyx->tyx", weights[:, STEPS], (curl - mean).square()).sqrt()
    expected = {"Truth": Vorticity()(TRUTH[STEPS]), "Member 1": curl[1], "Mean": mean, "Std": std}
    for name, fields in expected.items():
        for image, field in zip(table[name], fields, strict=True):
            np.testing.assert_allclose(image.get_array(), field, atol=1e-12)
    (limit,) = {i.get_clim()[1] for n in table if n != "Std" for i in table[n] if i}
    assert {i.get_clim()[0] for n in table if n != "Std" for i in table[n] if i} == {-limit}
    assert {i.get_clim() for i in table["Std"]} == {(0.0, float(std.max()))}
    # Coarse velocities have a vorticity too; the second step was not observed.
    first, second = table["Observed"]
    np.testing.assert_allclose(first.get_array(), Vorticity()(Average(2)(TRUTH[:1]))[0])
    assert second is None
    assert figure.axes[0].get_title() == "t = 0" and figure.axes[1].get_title() == "t = 0.6"


@pytest.mark.parametrize(
    ("operator", "expected", "label"),
    [
        (Stride(2), lambda x: Vorticity()(x[:, :, ::2, ::2]), "vorticity"),
        (Chain(Mask.ring((N, N), 0.3, 0.8), Vorticity()), Vorticity(), "vorticity"),
        (Chain(SIGMOID, Mask.centre(SPACE)), lambda x: x[:, 0].sigmoid(), "observed"),
        (Mask.grid(SPACE, 4), lambda x: x[:, 0], "u"),
        (Stride(N // 2), lambda x: x[:, 0], "u"),
        (Vorticity(period=float(N)), Vorticity(period=float(N)), "observed"),
    ],
    ids=["stride", "ring", "sigmoid", "grid", "two points", "unit spacing"],
)
def test_any_observation_is_drawn_where_it_was_made(operator, expected, label):
    figure = plot.panels(Analysis(STATES, SPACE), [0], TRUTH, [observed(operator)], 0)
    drawn = rows(figure)["Observed"][0]
    values = np.ma.filled(np.ma.asarray(drawn.get_array()), np.nan).ravel()
    values = values[np.isfinite(values)]
    field = expected(TRUTH[:1])[0].flatten().numpy()
    assert len(values) and np.isin(values.round(9), field.round(9)).all()
    bars = {axes.get_ylabel() for axes in figure.axes if axes.get_label() == "<colorbar>"}
    assert bars == {"vorticity", "std", label}


def test_dots_are_at_the_observed_points():
    figure = plot.panels(Analysis(STATES, SPACE), [0], observations=observed(Mask.grid(SPACE, 4)))
    places = rows(figure)["Observed"][0].get_offsets()
    y, x = np.meshgrid(*2 * [(np.arange(0, N, 4) + 0.5) / N], indexing="ij")
    np.testing.assert_allclose(places, np.stack([x.ravel(), y.ravel()], 1))


def dots(figure):
    drawn = rows(figure)["Observed"][0]
    values = np.ma.filled(np.ma.asarray(drawn.get_array()), np.nan)
    return np.asarray(drawn.get_offsets()), values[np.isfinite(values)]


def test_a_stored_table_is_drawn_as_the_instrument_is():
    instrument = observed(Mask.grid(SPACE, 4))
    here, there = (
        dots(plot.panels(Analysis(STATES, SPACE), [0, 3], observations=o))
        for o in (instrument, observation_table([instrument], SPACE))
    )
    np.testing.assert_allclose(there[0], here[0])
    np.testing.assert_allclose(there[1], here[1])


def test_the_second_velocity_is_drawn_where_it_alone_was_seen():
    figure = plot.panels(Analysis(STATES, SPACE), [0], observations=observed(Select([N * N + 5])))
    assert dots(figure)[1] == TRUTH[0, 1, 0, 5]
    assert "v" in {axes.get_ylabel() for axes in figure.axes}


def test_values_between_grid_points_have_no_row():
    table = {"step": [0], "component": [-1], "value": [1.0]}
    assert "Observed" not in rows(plot.panels(Analysis(STATES, SPACE), [0], observations=table))


def test_an_animation_has_a_frame_for_each_step(tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = plot.animate(Analysis(STATES, SPACE), tmp_path / "a.gif", TRUTH, 1, range(3), dpi=30)
    with image.open(path) as written:
        assert written.n_frames == 3
        assert written.size[0] == pytest.approx(30 * (2 * 3 + 0.8), abs=1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.gif"]


def test_what_is_no_flow_or_no_animation_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="periodic with equal spacing"):
        plot.panels(Analysis(STATES, StateSpace((2, N, N), variables=("u", "v"))), [0])
    with pytest.raises(ValueError, match="two velocities on two axes"):
        plot.panels(Analysis(STATES[:, :, 0], StateSpace((N, N))), [0])
    monkeypatch.setenv("PATH", "")
    for name in ("a.mp4", "a.png"):
        with pytest.raises(ValueError, match=r"ends in \.gif"):
            plot.animate(Analysis(STATES, SPACE), tmp_path / name)
    assert not list(tmp_path.iterdir())
