"""Train two U-Nets on Kolmogorov flow at equal budget: Scorda's and the plain one of SDA.

Both learn windows of 5 states at 32 x 32 points for the same seconds of one core, with the same
batches, noise and optimiser. The table has seconds per step and the validation loss.
``--seconds 100`` is enough to tell them apart; ``--data`` takes a store of ``scorda simulate``
instead of simulating.
"""

import argparse
import time

import torch
from torch import nn

from scorda.core import rng
from scorda.diffusion.training import Training, denoising_loss, fit
from scorda.nn.embed import NoiseEmbedding
from scorda.nn.unet import UNet
from scorda.priors.from_system import resampled
from scorda.priors.trajectory import Standardisation
from scorda.systems.kolmogorov import KolmogorovFlow

SIZE, HALF, VARIABLES = 32, 2, 2
WINDOW = 2 * HALF + 1


class Circular(nn.Conv2d):
    """A convolution with kernel 3 and circular padding."""

    def __init__(self, inputs, outputs, stride=1):
        super().__init__(inputs, outputs, 3, stride, padding=1, padding_mode="circular")


class Norm(nn.Module):
    """LayerNorm over the channels, without parameters."""

    def forward(self, z):
        var, mean = torch.var_mean(z, 1, keepdim=True)
        return (z - mean) / (var + 1e-5).sqrt()


class PlainBlock(nn.Module):
    """Residual block; the embedding of the noise level is added."""

    def __init__(self, width):
        super().__init__()
        self.shift = nn.Linear(64, width)
        layers = Norm(), Circular(width, width), nn.SiLU(), Circular(width, width)
        self.layers = nn.Sequential(*layers)

    def forward(self, z, embedding):
        return z + self.layers(z + self.shift(embedding)[..., None, None])


class PlainUNet(nn.Module):
    """The network of Rozet & Louppe (2023), appendix D, with narrower levels."""

    half_width = HALF

    def __init__(self, context, min_noise, max_noise, widths=(16, 32, 64), blocks=(3, 3, 3)):
        super().__init__()
        self.register_buffer("context", context)
        self.embed = NoiseEmbedding(64, min_noise, max_noise)
        size, levels = WINDOW * VARIABLES, len(widths)
        before = (size + len(context), *widths)
        self.heads = nn.ModuleList(
            Circular(before[i], widths[i], 2 if i else 1) for i in range(levels)
        )
        tails = [Circular(widths[0], size)]
        for i in range(1, levels):
            layers = Norm(), nn.Upsample(scale_factor=2), Circular(widths[i], widths[i - 1])
            tails.append(nn.Sequential(*layers))
        self.tails = nn.ModuleList(tails)
        self.down, self.up = (
            nn.ModuleList(
                nn.ModuleList(PlainBlock(width) for _ in range(count))
                for width, count in zip(widths, blocks, strict=True)
            )
            for _ in range(2)
        )

    def forward(self, x, noise):
        """Return the target of unit variance for segments that are one window."""
        z = (x / (1 + noise.square()).sqrt()[:, None, None, None, None]).flatten(1, 2)
        z = torch.cat((z, self.context.expand(len(z), *self.context.shape)), 1)
        z = z.contiguous(memory_format=torch.channels_last)
        embedding, kept = self.embed(noise), []
        for head, blocks in zip(self.heads, self.down, strict=True):
            z = head(z)
            for block in blocks:
                z = block(z, embedding)
            kept.append(z)
        for i in reversed(range(len(kept))):
            z = z if i + 1 == len(kept) else z + kept[i]
            for block in self.up[i]:
                z = block(z, embedding)
            z = self.tails[i](z)
        return z.view_as(x)


def trajectories(path):
    """Return standardised trajectories at 32 x 32 points, and the field of the force."""
    flow = KolmogorovFlow.sda(SIZE)
    if path:
        from scorda.store.series import read_series

        states = resampled(read_series(path)[0], (SIZE, SIZE))
    else:
        flow = KolmogorovFlow.sda(SIZE, resolution=64)
        states = flow.trajectory(flow.prior(64, rng.seeded(0)), 39)
    return Standardisation.of(states, flow.space).forward(states), flow.context


def compare(data, context, seconds, precision):
    """Print seconds per step and validation losses of both networks after equal seconds."""
    min_noise, max_noise = 2e-2, 50.0
    made = {
        "plain (16, 32, 64)": lambda: PlainUNet(context, min_noise, max_noise),
        "scorda, width 48": lambda: UNet(
            VARIABLES, (SIZE, SIZE), HALF, 48, context=1, min_noise=min_noise, max_noise=max_noise
        ),
    }
    print(f"{'network':20} {'weights':>8} {'ms/step':>8} {'steps':>6} {'validation loss':>16}")
    for name, make in made.items():
        torch.manual_seed(0)
        network = make()
        begin = time.process_time()
        if isinstance(network, UNet):
            network.prepare(data, context)
        spent = time.process_time() - begin
        settings = {"batch": 32, "segment": WINDOW, "rate": 2e-3}
        settings |= {"min_noise": min_noise, "max_noise": max_noise}
        settings |= {"average": 0.99, "every": 10**6, "precision": precision}
        # Seconds per step from the second step on, then as many steps as there is time for.
        probe, batch = (
            make(),
            (data[:32, :WINDOW], torch.ones(32), torch.randn(32, WINDOW, 2, SIZE, SIZE)),
        )
        for i in range(6):
            begin = time.process_time() if i == 1 else begin
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
                loss = denoising_loss(probe, *batch).mean()
            loss.backward()
        each = (time.process_time() - begin) / 5
        steps = max(1, int((seconds - spent) / each))
        begin = time.process_time()
        history = fit(network, data, Training(training_steps=steps, **settings))
        each = (time.process_time() - begin) / steps
        weights = sum(p.numel() for p in network.parameters())
        loss = history[-1]["validation"]
        print(f"{name:20} {weights:8d} {1e3 * each:8.0f} {steps:6d} {loss:16.4f}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--data")
    parser.add_argument("--precision", default="float32")
    given = parser.parse_args()
    torch.set_num_threads(1)
    compare(*trajectories(given.data), given.seconds, given.precision)
