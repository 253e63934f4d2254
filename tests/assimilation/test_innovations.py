"""Errors of instruments are estimated as Desroziers' formulas say."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import scorda as sc
from scorda import store
from scorda.assimilation import desroziers
from scorda.assimilation.innovations import Consistency, sentences
from scorda.cli import main
from scorda.report import errors
from scorda.store.consistency import errors_of
from scorda.systems.linear import LinearGaussian
from scorda.systems.lorenz import Lorenz63

P = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
R = torch.tensor([0.5, 0.8], dtype=torch.float64)


def independent(cycles, stated):
    """States N(0, P), independent from step to step, and two instruments with errors N(0, R)."""
    space = sc.StateSpace((2,), variables=("u", "v"))
    system = LinearGaussian(torch.zeros(2, 2), P, torch.zeros(2), P, space)
    model = sc.ObservationModel(sc.Select([0, 1]), std=R.sqrt())
    _, problem = sc.twin_experiment(system, model, cycles, 1, 0)
    (both,) = problem.instruments
    each = [
        sc.Observations(
            sc.ObservationModel(sc.Select([i]), std=float(stated[i].sqrt())),
            both.steps,
            both.values[:, [i]],
        )
        for i in (0, 1)
    ]
    return replace(problem, observations=each)


@pytest.mark.slow
@pytest.mark.parametrize("stated", [R, 2 * R, R * torch.tensor([1.0, 0.25])])
def test_estimates_are_those_of_the_formula_with_any_gain(stated):
    found = desroziers(sc.ETKF(), independent(1500, stated), 200, 1)
    S, S0 = P + torch.diag(R), P + torch.diag(stated)
    gain = P @ torch.linalg.inv(S0)
    error = ((torch.eye(2) - gain) @ S).diagonal() / stated
    background = (gain @ S).diagonal() / stated
    assert [one.kind for one in found] == [(0, "u"), (1, "v")]
    # 1500 cycles: the standard error of a standard deviation is 2 %; 200 members: 5 % of a gain.
    np.testing.assert_allclose([one.error for one in found], error.sqrt(), rtol=0.08)
    np.testing.assert_allclose([one.background for one in found], background.sqrt(), rtol=0.08)
    np.testing.assert_allclose(
        [one.spread for one in found], (P.diagonal() / stated).sqrt(), rtol=0.02
    )
    if stated is R:
        # With the optimal gain they are the errors themselves, and nothing is to be told.
        np.testing.assert_allclose(error, 1)
        np.testing.assert_allclose([one.chi2 for one in found], 1, rtol=0.15)
        assert sentences(found) == ["The errors of all instruments look as large as stated."]
    if stated[1] < R[1]:
        assert "instrument 2 (v) look" in sentences(found)[0] and len(sentences(found)) == 1


@pytest.mark.slow
def test_the_spread_of_few_members_is_the_unbiased_one():
    """The standard error is 2 %; the biased one of 5 members is 11 % smaller."""
    found = desroziers(sc.ETKF(), independent(400, R), 5, 1)
    expected = (P.diagonal() / R).sqrt()
    np.testing.assert_allclose([each.spread for each in found], expected, rtol=0.07)


def one(error, standard_error=0.01):
    return Consistency((1, ""), 10, error, standard_error, 1.0, 1.0, 0.0, 1.0)


def test_a_sentence_names_what_is_off_and_no_chance():
    assert sentences([one(1.8)]) == [
        "The errors of instrument 2 look 1.8 times as large as stated."
    ]
    quiet = ["The errors of all instruments look as large as stated."]
    assert sentences([one(1.1), one(1.8, 0.5), one(math.nan)]) == quiet
    assert "0.5 times" in sentences([one(0.5)])[0]


def twin():
    model = sc.ObservationModel(sc.Select([0, 2]), std=1.0)
    return sc.twin_experiment(Lorenz63(spinup=0.5), model, 60, 3, 0)[1]


def test_values_that_a_filter_leaves_out_do_not_count():
    problem = twin()
    (seen,) = problem.instruments
    values = seen.values.clone()
    values[4, 0] = 1e4
    wild = replace(problem, observations=[replace(seen, values=values)])
    found = desroziers(sc.ETKF(1.05, gross_error_check=20.0), wild, 30, 0)
    assert [one.number for one in found] == [19, 20]
    assert all(one.error < 3 for one in found)


@pytest.mark.slow
def test_a_store_tells_what_the_run_does_whatever_its_units(tmp_path):
    problem, method = twin(), sc.ParticleFilter(resample=0.5)
    expected = desroziers(method, problem, 40, 0, first=15)
    for block in (7, 61):
        path = tmp_path / f"{block}.zarr"
        posterior = store.run(method, problem, 40, path, desroziers=True, block=block)
        found = errors_of(posterior)
        assert [one.error for one in found] == pytest.approx([one.error for one in expected])
        assert [one.number for one in found] == [16, 16]
    plain = store.run(method, problem, 40, tmp_path / "plain.zarr")
    assert errors_of(plain) == []
    with pytest.raises(ValueError, match="no filter"):
        store.run(sc.EnKS(), problem, 40, tmp_path / "s.zarr", desroziers=True)


def test_the_figure_has_a_row_for_each_instrument():
    left, right = errors([one(1.8), one(1.0)]).axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["instrument 2", "instrument 2"]
    assert len(right.get_lines()) == 2


@pytest.mark.slow
def test_a_report_draws_the_errors_and_says_what_is_off(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "simulate --system lorenz63 --steps 400 --every 4 --std 2 --out twin --threads 1"
    assert main(words.split()) == 0
    table = tmp_path / "twin" / "observations.csv"
    table.write_text(table.read_text().replace(",2.0\n", ",1.0\n"))
    words = "assimilate --system lorenz63 --observations twin/observations.csv --threads 1"
    words += " --method etkf --inflation 1.1 --members 30 --desroziers --out run.zarr"
    capsys.readouterr()
    assert main(words.split()) == 0
    said = capsys.readouterr().out
    assert "times as large as stated" in said
    assert main(["report", "run.zarr"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Errors of observations and forecasts" in page and "times as large as stated" in page
