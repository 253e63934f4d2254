"""Malformed files of settings: ``python tests/malformed/settings.py SEED COUNT``."""

from dataclasses import fields

from common import by_hand
from tables import rows, text

from scorda.cli.analyse import Analyse
from scorda.cli.assimilate import Assimilate
from scorda.cli.bench import Bench
from scorda.cli.demo import Demo
from scorda.cli.report import Report
from scorda.cli.simulate import Simulate
from scorda.cli.train import Train

COMMANDS = {
    "analyse": (Analyse, []),
    "assimilate": (Assimilate, "--observations t.csv --system lorenz63 --members 4".split()),
    "bench": (Bench, ["lorenz63-nothing"]),
    "demo": (Demo, ["--members", "0"]),
    "report": (Report, ["none.zarr"]),
    "simulate": (Simulate, "lorenz63 --steps 4 --every 2".split()),
    "train": (Train, ["--out", "p.pt"]),
}
WRONG = [
    "1",
    "-1",
    "0",
    "2.5",
    "1e3",
    "nan",
    "inf",
    "-inf",
    "true",
    '""',
    '"x"',
    '" "',
    "[]",
    "[1, 2]",
    "[[1], ['a']]",
    "{}",
    "{ a = 1 }",
    "{ name = 1 }",
    "{ name = [] }",
    '{ name = "os:system" }',
    "1979-05-27",
    "07:32:00",
    "1979-05-27T07:32:00Z",
    "9" * 4000,
    "0x7fffffffffffffffffffff",
    '"\\u0000"',
    '"[/b]"',
    '"\\u202e"',
    "[" * 60 + "]" * 60,
    '"' + "x" * 100_000 + '"',
    "{ name = { name = 'x' } }",
    "[{ a = 1 }]",
    "['', '']",
    "[true]",
    "[nan]",
    "-0",
    '"-1"',
    '"--"',
    '"--out"',
    '"é"',
    "9223372036854775808",
    "1e308",
    "[1979-05-27]",
    "'''\n\n'''",
]
DOCUMENTS = [
    "[" + ".".join("a" * 1 for _ in range(10_000)) + "]",
    "a = " + "[" * 10_000 + "]" * 10_000,
    "a." * 10_000 + "b = 1",
    "a = " + "{ a = " * 3000 + "1" + " }" * 3000,
    "[method]\n"
    + "[method.prior."
    + ".".join("prior" for _ in range(500))
    + "]\nname = 'mixture'",
    "[[method]]\nname = 'etkf'",
    "[[system]]\nname = 'lorenz63'",
    "[system]",
    "[method]",
    "method = 1",
    "system = 1",
    "method = []",
    "system = {}",
    "[system]\nname = ''",
    "[method]\nname = ''",
    "[method.prior]",
    "[method.prior]\nname = 3",
    "[method]\nprior = 3",
    "[members]\na = 1",
    "members",
    "= 1",
    "members = ",
    "members = 1\nmembers = 2",
    "[a]\n[a]",
    "\ufeffmembers = 4",
    "\0",
    "a = 1\r",
    "'' = 1",
    '"a.b" = 1',
    '"--members" = 4',
    "config = 'run.toml'",
    "-- = 1",
    "name = 'x'",
    "[method]\nname = 'masf'\n[method.prior]\nname = 'local-gaussian'\nlocalization = 1",
    "[method]\nname = 'letkf'\n[method.localization]\nradius = nan",
    "[method]\nname = 'letkf'\n[method.localization]\nradius = [1, 2]",
    "[system]\nname = 'lorenz96'\ndim = 1e9",
    "[system]\nname = 'lorenz96'\ndim = -3",
    "[system]\nname = 'lorenz96'\ndim = nan",
    "[system]\nname = 'lorenz63'\ndim = 3",
    "[system]\nname = 'lorenz63'\nnoise_std = [1]",
    "[system]\nname = 'lorenz63'\n'' = 1",
    "[system]\nname = 'lorenz63'\n[system.deep]\na = 1",
    "steps = 100000000000000000000",
    "é = 1",
    "help = true",
    "version = true",
    "debug = true",
    "out = '/proc/x.zarr'",
    "out = 'no\\u0000.zarr'",
]


def call(folder, name, content):
    folder.joinpath("t.csv").write_text(text(rows()))
    folder.joinpath("c.toml").write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )
    words = COMMANDS[name][1]
    return [name, *words, "--config", "c.toml"]


def chosen(rng, values):
    values = list(values)
    return values[int(rng.integers(len(values)))]


def wrong_value(folder, rng):
    name = chosen(rng, COMMANDS)
    key = chosen(rng, [f.name for f in fields(COMMANDS[name][0]) if f.name != "config"])
    key = key if rng.random() < 0.5 else key.replace("_", "-")
    given = COMMANDS[name][1]
    value = chosen(rng, WRONG)
    words = call(folder, name, f"{key} = {value}\n")
    # The file alone says it.
    if f"--{key}" in given and rng.random() < 0.9:
        at = words.index(f"--{key}")
        del words[at : at + 2]
    return words


def wrong_table(folder, rng):
    name = chosen(rng, COMMANDS)
    key = chosen(rng, [f.name for f in fields(COMMANDS[name][0]) if f.name != "config"])
    inner = chosen(rng, ["a", "name", "x-y", "''", "members"])
    double = chosen(rng, [("[", "]"), ("[[", "]]")])
    return call(folder, name, f"{double[0]}{key}{double[1]}\n{inner} = {chosen(rng, WRONG)}\n")


def unknown_key(folder, rng):
    name = chosen(rng, COMMANDS)
    key = chosen(
        rng, ["membres", "a", "é", "--out", "a.b", "x" * 3000, "", "out ", "[/b]", "out\\u0000"]
    )
    return call(folder, name, f'"{key}" = {chosen(rng, WRONG)}\n')


def document(folder, rng):
    return call(folder, chosen(rng, ["assimilate", "simulate", "train"]), chosen(rng, DOCUMENTS))


def option_of_part(folder, rng):
    method = chosen(rng, ["enkf", "etkf", "letkf", "masf", "sda", "ensf", "particle-filter"])
    part = chosen(rng, ["", ".prior", ".localization", ".sampler", ".guidance", ".nothing"])
    key = chosen(rng, ["name", "inflation", "radius", "block", "noise_levels", "x"])
    return call(
        folder,
        "assimilate",
        f"[method]\nname = '{method}'\n[method{part}]\n{key} = {chosen(rng, WRONG)}\n"
        if part
        else f"[method]\nname = '{method}'\n{key} = {chosen(rng, WRONG)}\n",
    )


def option_of_system(folder, rng):
    system = chosen(rng, ["lorenz63", "lorenz96", "kolmogorov", "vorticity", "x", ""])
    key = chosen(rng, ["dim", "noise_std", "dt", "forcing", "size", "sigma", "x", "''"])
    words = call(
        folder, "assimilate", f"[system]\nname = '{system}'\n{key} = {chosen(rng, WRONG)}\n"
    )
    at = words.index("--system")
    return words[:at] + words[at + 2 :]


def random_text(folder, rng):
    content = bytearray(b"members = 4\nstd = 1.0\n[method]\nname = 'etkf'\ninflation = 1.1\n")
    for _ in range(int(rng.integers(1, 5))):
        content[int(rng.integers(len(content)))] = int(rng.integers(256))
    return call(folder, "assimilate", bytes(content))


def flag(folder, rng):
    name = chosen(rng, COMMANDS)
    key = chosen(rng, [f.name.replace("_", "-") for f in fields(COMMANDS[name][0])])
    values = ["nan", "2.5", "1e3", "-1", "", " ", "é", "[/b]", "9" * 5000, "0", "\udcff", "no/x/y"]
    return [*call(folder, name, "")[:-2], f"--{key}", chosen(rng, values)]


KINDS = {
    make.__name__: make
    for make in (
        wrong_value,
        wrong_table,
        unknown_key,
        document,
        option_of_part,
        option_of_system,
        random_text,
        flag,
    )
}

if __name__ == "__main__":
    by_hand(KINDS)
