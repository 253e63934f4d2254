"""The runner of benchmarks: it tunes methods with equal effort, and scores them on equal terms."""

from pathlib import Path

# The set-ups are the package `setups`: it is beside this file in an installed wheel, and in
# the folder `benchmarks` of a clone, which is searched next.
__path__.append(str(Path(__file__).parents[3] / "benchmarks"))
