"""Training: deterministic, resumable bit for bit, honest about its validation."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from scorda.core import rng
from scorda.core.files import read_tensors, write_tensors
from scorda.diffusion.checkpoint import Checkpoint
from scorda.diffusion.levels import observed_levels
from scorda.diffusion.training import Training, denoising_loss, fit, validation_loss
from scorda.nn.temporal import TemporalConv

SETTINGS = Training(training_steps=30, batch=4, segment=6, every=5, rate=1e-2)


def data(series=10):
    """Smooth random curves: sums of two sines with random phases."""
    phase = rng.normal(series, (2, 1, 2), rng.seeded(7))
    time = torch.arange(24)[:, None] * torch.tensor([0.3, 0.5])
    return (time + 3 * phase).sin().sum(1)


def network(**options):
    torch.manual_seed(0)
    return TemporalConv(2, 8, 1, **options)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def run(settings=SETTINGS, trajectories=None, **options):
    net = network()
    history = fit(net, data() if trajectories is None else trajectories, settings, **options)
    return weights(net), history


def test_same_seed_gives_the_same_bits_and_another_seed_others():
    first, history = run()
    second, again = run()
    assert torch.equal(first, second) and history == again
    assert not torch.equal(first, run(replace(SETTINGS, seed=1))[0])


def test_training_does_not_touch_the_global_stream():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    net = network()
    torch.manual_seed(3)
    fit(net, data(), replace(SETTINGS, training_steps=2))
    assert torch.equal(torch.rand(2), expected)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop", [10, 15, 30])
def test_stopped_and_resumed_is_uninterrupted(tmp_path, stop):
    expected, history = run()

    def report(entry):
        if entry["step"] == stop:
            raise Stop

    path = tmp_path / "run.safetensors"
    with pytest.raises(Stop):
        run(checkpoint=path, report=report, seconds=0)
    seen = []
    resumed, entries = run(checkpoint=path, report=seen.append, seconds=0)
    assert torch.equal(resumed, expected) and entries == history
    # It really resumed: the checkpoint is of the validation before the stop.
    assert seen[0]["step"] == stop


def stopping(step):
    """A loss that raises in a step; only the batches of training have four segments."""
    seen = [0]

    def loss(network, x0, *noise):
        seen[0] += len(x0) == SETTINGS.batch
        if seen[0] == step:
            raise Stop
        return denoising_loss(network, x0, *noise)

    return loss


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("step", [2, 4, 6, 9, 18, 30])
def test_stopped_between_validations_is_uninterrupted(tmp_path, step, keep):
    """The mean loss since the last validation goes on too, and so does the loss of step 0."""
    expected, history = run(keep=keep)
    path = tmp_path / "run.checkpoint"
    with pytest.raises(Stop):
        run(checkpoint=path, loss=stopping(step), seconds=0, keep=keep)
    assert Checkpoint(path).read()[1]["step"] == step - 1
    resumed, entries = run(checkpoint=path, keep=keep)
    assert torch.equal(resumed, expected)
    assert_close(table(entries), table(history), atol=0, rtol=0, equal_nan=True)


def table(history):
    return torch.tensor([[entry[name] for name in sorted(entry)] for entry in history])


def test_a_checkpoint_is_due_by_time_alone(tmp_path, monkeypatch):
    """Of a clock that goes 25 seconds with each step, every third step is saved."""
    now, saved = [0.0], []
    monkeypatch.setattr("scorda.diffusion.training.clock.monotonic", lambda: now[0])

    def loss(network, x0, *noise):
        now[0] += 25.0 * (len(x0) == SETTINGS.batch)
        return denoising_loss(network, x0, *noise)

    write = Checkpoint.write

    def writing(self, tensors, header):
        saved.append(header["step"])
        write(self, tensors, header)

    monkeypatch.setattr(Checkpoint, "write", writing)
    run(replace(SETTINGS, every=1000), checkpoint=tmp_path / "c", loss=loss)
    assert saved == list(range(3, 31, 3))


@pytest.mark.parametrize("damage", ["flip", "cut", "zero"])
def test_a_damaged_checkpoint_is_never_taken_up(tmp_path, damage):
    path = tmp_path / "run.checkpoint"
    run(replace(SETTINGS, training_steps=2), checkpoint=path, seconds=0)
    whole = path.read_bytes()
    for at in [*range(0, 700, 23), *range(700, len(whole), len(whole) // 60)]:
        damaged = bytearray(whole)
        if damage == "flip":
            damaged[at] ^= 16
        elif damage == "cut":
            del damaged[at:]
        else:
            damaged[at : at + 40] = bytes(len(damaged[at : at + 40]))
        if bytes(damaged) == whole:
            continue
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"run\.checkpoint (is|has) "):
            run(replace(SETTINGS, training_steps=2), checkpoint=path)
    path.write_bytes(whole)
    run(replace(SETTINGS, training_steps=2), checkpoint=path)


def test_a_foreign_file_is_no_place_for_a_checkpoint(tmp_path):
    path = tmp_path / "run.checkpoint"
    path.write_text("mine")
    with pytest.raises(ValueError, match="without the mark of Scorda"):
        Checkpoint(path).check_place()
    with pytest.raises(ValueError, match="no safetensors file"):
        run(checkpoint=path, seconds=0)
    write_tensors(path, {"a": torch.zeros(1)}, {"kind": "trajectory prior"})
    with pytest.raises(ValueError, match="no checkpoint of a training: rename it"):
        Checkpoint(path).check_place()
    write_tensors(path, {"a": torch.tensor([torch.nan])}, {"kind": "checkpoint"})
    with pytest.raises(ValueError, match="not finite, in a"):
        Checkpoint(path).read()


KILLED = """
import sys, torch
sys.path[:0] = {paths!r}
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
import test_training
test_training.run(
    checkpoint=sys.argv[1], seconds=0, report=lambda entry: print(entry["step"], flush=True)
)
"""
BETWEEN = """
import sys, time, torch
sys.path[:0] = {paths!r}
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
import test_training
from scorda.diffusion import training

save = training._Run.save

def saved(run, checkpoint):
    save(run, checkpoint)
    print(run.step, flush=True)

training._Run.save = saved
test_training.run(checkpoint=sys.argv[1], seconds=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("step", [1, 7, 13])
def test_killed_between_validations_resumes_with_the_same_bits(tmp_path, step):
    """SIGKILL while it trains or writes, some time after the checkpoint of a step."""
    path, here = tmp_path / "run.checkpoint", Path(__file__).parent
    script = BETWEEN.format(paths=[str(here), str(here.parents[1] / "src")])
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        while int(child.stdout.readline()) < step:
            pass
        child.kill()
    assert child.returncode == -9 and Checkpoint(path).read()[1]["step"] >= step
    resumed, history = run(checkpoint=path, seconds=0)
    expected, entries = run()
    assert torch.equal(resumed, expected) and history == entries
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_killed_process_resumes_with_the_same_bits(tmp_path):
    """SIGKILL while it trains, some validations after its first checkpoint."""
    path, here = tmp_path / "run.safetensors", Path(__file__).parent
    script = KILLED.format(paths=[str(here), str(here.parents[1] / "src")])
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        steps = [int(child.stdout.readline()) for _ in range(3)]
        child.kill()
    assert steps == [5, 10, 15] and child.returncode == -9
    seen = []
    resumed, history = run(checkpoint=path, report=seen.append)
    expected, entries = run()
    assert torch.equal(resumed, expected) and history == entries
    assert seen[0]["step"] >= 15


def test_finished_run_is_not_repeated(tmp_path):
    path, seen = tmp_path / "run.safetensors", []
    expected, history = run(checkpoint=path, seconds=0)
    again, entries = run(checkpoint=path, report=seen.append)
    assert torch.equal(again, expected) and entries == history and not seen


def test_loss_falls_and_the_best_average_is_kept():
    settings = replace(SETTINGS, training_steps=300, every=50, batch=16)
    _, history = run(settings, data(40))
    assert [entry["step"] for entry in history] == list(range(50, 301, 50))
    # An untrained network has loss 1 (see the test of `denoising_loss`).
    # Few data, so the validation stalls at 0.8.
    assert history[-1]["loss"] < 0.8 and history[-1]["validation"] < 0.85
    # Ruined at the end, training returns the weights of the best validation.
    net, reports = network(), []

    def spoil(entry):
        reports.append(entry)
        if entry["step"] == 10:
            with torch.no_grad():
                for p in net.parameters():
                    p.mul_(30)

    fit(net, data(), replace(SETTINGS, training_steps=15, average=0.1), report=spoil)
    assert reports[2]["validation"] > reports[1]["validation"]
    expected, _ = run(replace(SETTINGS, training_steps=15, average=0.1))
    assert weights(net).norm() < 3 * expected.norm()


def test_validation_is_held_out():
    """Whole series at the end, or the end of a single one: they do not influence the weights."""
    for trajectories, held in ((data(), (slice(9, None),)), (data(1).repeat(1, 2, 1), None)):
        changed = trajectories.clone()
        changed[held or (slice(None), slice(-6, None))] += 5
        settings = replace(SETTINGS, every=30)
        (a, history), (b, other) = run(settings, trajectories), run(settings, changed)
        assert torch.equal(a, b)
        assert history[0]["loss"] == other[0]["loss"]
        assert history[0]["validation"] != other[0]["validation"]


def test_checkpoint_of_another_run_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path, seconds=0)
    with pytest.raises(ValueError, match="no checkpoint of this run"):
        run(replace(SETTINGS, rate=2e-2), checkpoint=path)
    with pytest.raises(ValueError, match="checkpoint of another network"):
        fit(TemporalConv(2, 10, 1), data(), SETTINGS, checkpoint=path)
    other = tmp_path / "other.safetensors"
    write_tensors(other, {"a": torch.zeros(1)}, {"kind": "posterior"})
    with pytest.raises(ValueError, match="no checkpoint of a training"):
        run(checkpoint=other)
    tensors, header = read_tensors(path)
    assert header["kind"] == "checkpoint" and header["step"] == 30 and tensors


def test_truncated_checkpoint_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    run(checkpoint=path, seconds=0)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        run(checkpoint=path)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="24 states for segments of 40"):
        run(replace(SETTINGS, segment=40))
    with pytest.raises(ValueError, match="one trajectory of 24 states"):
        run(replace(SETTINGS, segment=16), data(1))
    broken = data()
    broken[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        run(trajectories=broken)
    with pytest.raises(FloatingPointError, match="not finite at step"):
        run(replace(SETTINGS, rate=1e200))
    for wrong in (
        {"training_steps": 0},
        {"batch": 0},
        {"min_noise": 2.0, "max_noise": 1.0},
        {"validation": 1.0},
        {"precision": "half"},
    ):
        with pytest.raises(ValueError, match="Got"):
            Training(**wrong)


def test_bfloat16_products_train_as_well():
    losses, products = [], []

    def loss(*batch):
        one = torch.ones(2, 2, dtype=torch.float32)
        products.append((one @ one).dtype)
        return denoising_loss(*batch)

    for precision in ("float32", "bfloat16"):
        net = network().float()
        history = fit(net, data(), replace(SETTINGS, precision=precision), loss=loss)
        assert weights(net).dtype == torch.float32
        losses.append(history[-1]["validation"])
    # The first step of each.
    assert products[0] == torch.float32 and products[len(products) // 2] == torch.bfloat16
    # 8 bits: each product is off by up to 0.4%.
    assert losses[0] != losses[1] and abs(losses[1] / losses[0] - 1) < 0.02


def test_observed_levels_are_those_of_observations():
    """1 / nu_i^2 - 1 / nu^2 is the precision of an error, which a component keeps."""
    noise = torch.logspace(-2, 1, 400)
    level = observed_levels(noise, (400, 3), 0.7, torch.Generator().manual_seed(0))
    precision = level**-2 - noise[:, None, None] ** -2
    used = level < noise[:, None, None] * (1 - 1e-6)
    # 0.7 of the segments, half of the components, less the 3% that a hole empties: 1200 of them in
    # 400 segments, 3 standard errors.
    assert abs(used.any(1).double().mean() - 0.34) < 0.045
    gaps, regular, shared, at_once, other = [], [], [], [], []
    for segment, present in zip(precision, used, strict=True):
        columns = [c for c in range(3) if present[:, c].sum() > 2]
        for c in columns:
            times = present[:, c].nonzero()[:, 0]
            error = segment[times, c]
            assert_close(error, error[:1].expand(len(times)), rtol=1e-4, atol=0)
            gaps.append(float(times.diff().double().median()))
            at_once.append(bool(times[0] == 0))
            regular.append(len(set(times.diff().tolist())) <= 1 + (times.diff().max() > gaps[-1]))
        if len(columns) > 1:
            own = gaps[-len(columns) :]
            other.append(max(own) > 2 * min(own))
            shared.append(torch.equal(present[:, columns[0]], present[:, columns[1]]))
    # Gaps are uniform in log from 1 to 64; 3 standard errors of about 400 of them, some dense ones
    # alike by chance.
    assert min(gaps) == 1 and 40 < max(gaps) <= 128
    assert abs(torch.tensor(gaps).log2().mean() - 3) < 0.5
    assert 0.4 < torch.tensor(regular).double().mean() < 0.7
    assert 0.35 < torch.tensor(shared).double().mean() < 0.7
    # Times start anywhere: at the first state with the mean of 1 / gap, (1 - 1 / 64) / log 64.
    assert abs(torch.tensor(at_once).double().mean() - 0.24) < 0.08
    # Components of their own times have gaps of their own: half of the segments, 0.69 of pairs.
    assert torch.tensor(other).double().mean() > 0.2
    error = precision[used].rsqrt()
    assert 0.0099 < error.min() < 0.02 and 0.5 < error.max() < 1.01


def test_a_network_per_entry_trains_on_observed_entries():
    plain, lowered = network(per_entry=True), network(per_entry=True)
    fit(plain, data(), replace(SETTINGS, observed=0.0))
    fit(lowered, data(), SETTINGS)
    # Columns of the first layer that only levels which differ between entries reach.
    new = slice(7, 11)
    untouched = network(per_entry=True).first.weight[:, new]
    moved = [(net.first.weight[:, new] / untouched - 1).abs().max() for net in (plain, lowered)]
    # Without observed entries they get no gradient, so they only decay.
    assert moved[0] < 1e-2 and moved[1] > 0.5


def test_initial_weights_stay_where_none_are_better():
    """A rate that ruins the network: the weights that it came with are the best."""
    ruin = replace(SETTINGS, training_steps=20, rate=3.0)
    before = weights(network())
    after, history = run(ruin, keep=True)
    assert history[0]["step"] == 0 and torch.equal(before, after)
    assert not torch.equal(before, run(ruin)[0])


def test_patience_ends_a_training_that_no_longer_improves():
    ruin = replace(SETTINGS, training_steps=100, rate=3.0)
    steps = [entry["step"] for entry in run(ruin, keep=True, patience=2)[1]]
    assert steps == [0, 5, 10]
    assert run(ruin, keep=True)[1][-1]["step"] == 100


def test_validation_loss_is_that_of_the_training():
    net = network(per_entry=True)
    history = fit(net, data(), SETTINGS, keep=True)
    assert validation_loss(net, data(), SETTINGS) == min(e["validation"] for e in history)
