"""Priors of trajectories: files that come back whole, samples with the system's statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.files import read_tensors, write_tensors
from scorda.core.space import StateSpace
from scorda.diffusion import batches
from scorda.diffusion.samplers import Multistep, PredictorCorrector
from scorda.diffusion.variance_preserving import VariancePreserving
from scorda.nn import build
from scorda.priors.gaussian_trajectory import GaussianTrajectory
from scorda.priors.trajectory import Standardisation, TrainedTrajectory, load
from scorda.systems.linear import LinearGaussian
from scripts import load_script

ARCHITECTURES = [
    {"name": "temporal-conv", "channels": 6, "width": 8, "blocks": 1, "differences": [0.3, 0.1]},
    {"name": "window-mlp", "channels": 6, "k": 1, "width": 8, "depth": 1},
]


def trained(architecture=ARCHITECTURES[0], dtype=torch.float32):
    """A prior with random weights, on a periodic field of two variables."""
    generator = torch.Generator().manual_seed(0)
    network = build(architecture).to(dtype)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    x = np.array([0.0, 0.1, 0.7])
    space = StateSpace(
        (2, 3), 0.25, ("u", "v"), {"x": x}, {"x": 1.5}, {"u": "m/s", "x": "km", "time": "h"}
    )
    standardisation = Standardisation(
        torch.tensor([[1 / 3], [2.0]], dtype=dtype), torch.tensor([[0.1], [7.0]], dtype=dtype)
    )
    return TrainedTrajectory(
        architecture,
        network,
        space,
        standardisation,
        VariancePreserving(eta=1 / 300),
        Multistep(12, 1, tau=1 / 7),
        {"system": "none", "seed": 3},
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a["name"])
def test_file_gives_the_prior_back_bit_for_bit(tmp_path, architecture, dtype):
    prior, path = trained(architecture, dtype), tmp_path / "prior.safetensors"
    prior.save(path)
    back = load(path)
    for name, tensor in prior.network.state_dict().items():
        assert back.network.state_dict()[name].dtype == dtype
        assert torch.equal(back.network.state_dict()[name], tensor)
    assert (back.process, back.sampler) == (prior.process, prior.sampler)
    assert back.half_width == prior.half_width
    assert torch.equal(back.standardisation.mean, prior.standardisation.mean)
    assert torch.equal(back.standardisation.std, prior.standardisation.std)
    for name in ("shape", "dt", "variables", "period", "units"):
        assert getattr(back.space, name) == getattr(prior.space, name)
    assert np.array_equal(back.space.coordinates["x"], prior.space.coordinates["x"])
    assert back.provenance["seed"] == 3 and back.provenance["versions"]["torch"]
    # Another memory layout may round differently; the same file twice does not.
    samples = prior.sample(3, 6, rng.seeded(0)), back.sample(3, 6, rng.seeded(0))
    assert_close(*samples, rtol=1e-4, atol=1e-4)
    assert torch.equal(load(path).sample(3, 6, rng.seeded(0)), samples[1])
    # And what was loaded is saved as the same tensors.
    back.save(tmp_path / "again.safetensors")
    again = read_tensors(tmp_path / "again.safetensors")[0]
    assert all(torch.equal(t, again[n]) for n, t in read_tensors(path)[0].items())


def test_half_a_file_computes_in_single_precision(tmp_path):
    unet = {"name": "unet", "channels": 2, "grid": [8, 8], "k": 1, "width": 8, "levels": 1}
    network = build(unet).float()
    one = Standardisation(torch.zeros(()), torch.ones(()))
    space = StateSpace((2, 8, 8), 1)
    prior = replace(
        trained(), architecture=unet, network=network, space=space, standardisation=one
    )
    network.law.estimate(1e-6 * torch.randn(200, 4, 2, 8, 8, generator=rng.seeded(0)))
    prior.save(tmp_path / "whole.safetensors")
    prior.save(tmp_path / "half.safetensors", half=True)
    back, weights = load(tmp_path / "half.safetensors").network, dict(network.named_parameters())
    for name, tensor in back.state_dict().items():
        wanted = network.state_dict()[name]
        # Of a variance, far below the range of 16 bits, nothing is lost.
        rounded = wanted.half().float() if name in weights else wanted
        assert torch.equal(tensor, rounded) and tensor.dtype == torch.float32
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("half", "whole")]
    saved = 2 * sum(p.numel() for p in weights.values())
    assert sizes[1] - sizes[0] == pytest.approx(saved, abs=200)
    next(iter(weights.values())).flatten()[0] = 7e4
    with pytest.raises(ValueError, match="not finite"):
        prior.save(tmp_path / "more.safetensors", half=True)
    assert not (tmp_path / "more.safetensors").exists()


def test_truncated_foreign_and_mismatched_files_are_refused(tmp_path):
    path = tmp_path / "prior.safetensors"
    trained().save(path)
    whole, (tensors, header) = path.read_bytes(), read_tensors(path)
    for size in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:size])
        said = {0: "is empty", 5: "is damaged or no safetensors file"}.get(size, "is truncated")
        with pytest.raises(ValueError, match=said):
            load(path)
    path.write_bytes(b"PK\x03\x04" + b"0" * 5000)
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="without a header"):
        load(path)
    write_tensors(path, tensors, header | {"kind": "checkpoint"})
    with pytest.raises(ValueError, match="holds a checkpoint, not a trained prior"):
        load(path)
    wider = header["architecture"] | {"width": 16}
    write_tensors(path, tensors, header | {"architecture": wider})
    with pytest.raises(ValueError, match="do not fit the architecture"):
        load(path)
    fewer = {n: t for n, t in tensors.items() if n != "network.first.weight"}
    write_tensors(path, fewer, header)
    with pytest.raises(ValueError, match="do not fit the architecture"):
        load(path)
    write_tensors(path, tensors, header | {"process": {"name": "Levy"}})
    with pytest.raises(ValueError, match="'Levy', which this version"):
        load(path)
    for gone in ("space", "sampler", "architecture"):
        write_tensors(path, tensors, {n: v for n, v in header.items() if n != gone})
        with pytest.raises(ValueError, match=f"lacks .*{gone}"):
            load(path)
    write_tensors(path, {n: t for n, t in tensors.items() if n != "standardisation.std"}, header)
    with pytest.raises(ValueError, match=r"lacks .*standardisation\.std"):
        load(path)


def test_unknown_names_list_the_shipped_priors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no shipped prior 'nope': choose one of \["):
        load("nope")
    with pytest.raises(FileNotFoundError, match="There is no file"):
        load(tmp_path / "nope.safetensors")


def test_large_trajectories_are_computed_few_at_once():
    shapes = {(65, 3): 128, (32, 2, 32, 32): 4, (127, 2, 64, 64): 1}
    assert {shape: batches.at_once(shape) for shape in shapes} == shapes


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda a: a["name"])
def test_samples_do_not_depend_on_the_chunk_and_have_any_length(monkeypatch, architecture):
    prior = trained(architecture, torch.float64)
    for steps in (3, 8):
        monkeypatch.setattr(batches, "MOST", 64)
        whole = prior.sample(9, steps, rng.seeded(0))
        monkeypatch.setattr(batches, "MOST", 4)
        assert whole.shape == (9, steps + 1, 2, 3)
        assert_close(prior.sample(9, steps, rng.seeded(0)), whole, rtol=1e-8, atol=1e-8)


def test_a_prior_prints_without_its_weights_and_history():
    prior = load("kolmogorov")
    assert prior.provenance["history"]
    text = str(prior)
    assert "\n" not in text and "Conv" not in text and "history" not in text
    assert "shape=(2, 32, 32)" in text and "sampler=Ancestral(" in text


def test_parameters_are_frozen():
    prior = trained()
    assert not any(p.requires_grad for p in prior.network.parameters())
    assert not prior.network.training


def linear():
    A = torch.tensor([[0.9, 0.2], [-0.2, 0.9]])
    Q = torch.tensor([[0.1, 0.02], [0.02, 0.2]])
    return LinearGaussian(A, Q, torch.tensor([5.0, -1.0]), torch.diag(torch.tensor([1.0, 0.5])))


def test_gaussian_prior_is_the_law_of_the_system():
    system, steps = linear(), 6
    prior = GaussianTrajectory.of(system, steps)
    mean, cov = system.trajectory_moments(steps)
    std = prior.standardisation.std.repeat(steps + 1)
    assert_close(prior.standardisation.inverse(prior.mean).flatten(), mean)
    assert_close(std[:, None] * prior.cov * std, cov)
    # Per component, over all steps: mean 0 and variance 1.
    assert_close(prior.mean.mean(0), torch.zeros(2))
    total = prior.cov.diagonal().view(-1, 2) + prior.mean.square()
    assert_close(total.mean(0), torch.ones(2))
    with pytest.raises(ValueError, match="make it with steps = 3"):
        prior.denoiser(4)


def test_samples_of_the_gaussian_prior_have_the_moments_of_the_system():
    """By the sampler's affine map, without sampling error: 64 steps leave less than 1%."""
    exactness = load_script("examples/exactness.py")
    system, steps = linear(), 6
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rng, "Stream", exactness.UnitNoise)
        states = GaussianTrajectory.of(system, steps).sample(15, steps).flatten(1)
    mean, cov = system.trajectory_moments(steps)
    std = cov.diagonal().sqrt()
    responses = states[1:] - states[0]
    assert ((states[0] - mean).abs() < 0.01 * std).all()
    assert ((responses.T @ responses - cov).abs() < 0.01 * std[:, None] * std).all()


def test_samples_and_trajectories_have_the_same_autocorrelation():
    """10 000 draws: standard errors at most 0.01 of a correlation, 1.4% of a variance."""
    # Four standard errors, and 1% for the 64 steps.
    system, steps = linear(), 6
    prior, members = GaussianTrajectory.of(system, steps), 10_000
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "MOST", members)
        states = prior.sample(members, steps, rng.seeded(0))
    mean, cov = system.trajectory_moments(steps)
    std = cov.diagonal().sqrt()
    z = (states.flatten(1) - mean) / std
    assert (z.mean(0).abs() < 0.04).all()
    assert ((z.var(0) - 1).abs() < 4 * 0.014 + 0.01).all()
    correlation = z.T @ z / members
    assert ((correlation - cov / std[:, None] / std).abs() < 4 * 0.014 + 0.01).all()


def test_sample_takes_another_sampler_and_reports():
    prior, seen = GaussianTrajectory.of(linear(), 2), []
    sampler = PredictorCorrector(4, 1)
    prior.sample(3, 2, rng.seeded(0), sampler, lambda *a: seen.append(a))
    assert seen[-1] == (sampler.evaluations, sampler.evaluations)
    default = prior.sample(3, 2, rng.seeded(0))
    assert torch.equal(
        replace(prior, sampler=sampler).sample(3, 2, rng.seeded(0)),
        prior.sample(3, 2, rng.seeded(0), sampler),
    )
    assert not torch.equal(default, prior.sample(3, 2, rng.seeded(0), sampler))


def test_axes_come_back_in_their_order(tmp_path):
    """Names in a header are sorted, and the axes of a flow are y and x."""
    x = np.arange(4.0)
    space = StateSpace((4, 4), 0.5, ("t",), {"y": x, "x": x})
    one = Standardisation(torch.zeros(4, 4), torch.ones(4, 4))
    replace(trained(ARCHITECTURES[0] | {"channels": 16}), space=space, standardisation=one).save(
        tmp_path / "p.safetensors"
    )
    assert load(tmp_path / "p.safetensors").space.axes == ("y", "x")
    # As in files that do not name them yet.
    tensors, header = read_tensors(tmp_path / "p.safetensors")
    del header["space"]["axes"]
    write_tensors(tmp_path / "old.safetensors", tensors, header)
    assert load(tmp_path / "old.safetensors").space.axes == ("y", "x")
    assert load("kolmogorov").space.axes == ("y", "x")


def test_standardisation_is_per_variable_and_inverts():
    axis = np.arange(5.0)
    space = StateSpace((2, 5), 1.0, ("u", "v"), {"x": axis})
    states = torch.randn(7, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    states[:, :, 1] = 4 + 10 * states[:, :, 1]
    scale = Standardisation.of(states, space)
    z = scale.forward(states)
    for channel in range(2):
        assert abs(float(z[:, :, channel].mean())) < 1e-12
        assert abs(float(z[:, :, channel].std()) - 1) < 1e-12
    assert torch.allclose(scale.inverse(z), states)


def test_standardisation_of_one_field_is_one_number():
    states = 3 + 2 * torch.randn(50, 6, 6, generator=torch.Generator().manual_seed(0))
    scale = Standardisation.of(states, StateSpace((6, 6), variables=("t",)))
    assert scale.mean.numel() == 1
    assert torch.allclose(scale.mean.flatten(), states.mean())


def test_constant_data_cannot_be_standardised():
    with pytest.raises(ValueError, match="not positive"):
        Standardisation.of(torch.ones(4, 3), StateSpace((3,)))
