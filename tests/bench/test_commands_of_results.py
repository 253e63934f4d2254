"""The commands that the site names for files of results can be run."""

import tomllib
from pathlib import Path

from scorda.bench.problems import PROBLEMS

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def test_commands_are_of_files_that_are_there_and_name_benchmarks_and_examples():
    commands = tomllib.loads((RESULTS / "commands.toml").read_text(encoding="utf-8"))
    assert {f"{name}.csv" for name in commands} <= {file.name for file in RESULTS.iterdir()}
    shipped = {file.stem for file in (ROOT / "src/scorda/weights").glob("*.safetensors")}
    for command in " ".join(commands.values()).replace(";", "").split():
        if command.startswith("examples/"):
            assert (ROOT / command).exists()
        elif command not in ("python", "scorda", "bench", "--prior"):
            assert command in PROBLEMS or command in shipped
