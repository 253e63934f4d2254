"""Tables as CSV and LaTeX: complete, escaped, and alone on standard output."""

import csv
import io

import pytest

from scorda.cli import main
from scorda.cli.tables import as_csv, as_latex

HEAD = ["uses", "method", "RMSE", "90 % covers"]
ROWS = [
    ["past data only", "a_b, c", "0.5 ± 0.1", "90 %"],
    ["", "d&e", "–", "85 %"],
    None,
    ["all data", "f", "2 of 3 diverged", "–"],
]


def test_csv_has_whole_rows_and_a_column_for_each_number():
    first, *lines = csv.reader(io.StringIO(as_csv(HEAD, ROWS)))
    assert first == ["uses", "method", "RMSE", "RMSE ±", "90 % covers"]
    assert lines == [
        ["past data only", "a_b, c", "0.5", "0.1", "90 %"],
        ["past data only", "d&e", "", "", "85 %"],
        ["all data", "f", "2 of 3 diverged", "", ""],
    ]


def test_latex_has_the_cells_escaped_and_the_rules_of_booktabs():
    text = as_latex("Scores\nof all", HEAD, ROWS, left=2)
    lines = text.splitlines()
    assert lines[:3] == ["% Scores of all", r"\begin{tabular}{llrr}", r"\toprule"]
    assert r"past data only & a\_b, c & 0.5 $\pm$ 0.1 & 90 \% \\" in lines
    assert r" & d\&e & -- & 85 \% \\" in lines
    assert lines.count(r"\midrule") == 2 and lines[-1] == r"\end{tabular}"
    evil = as_latex(None, ["x", "y"], [[r"\input{/etc/passwd}", "$\x1b^~"]], left=1)
    assert r"\input" not in evil and "\x1b" not in evil


@pytest.mark.parametrize("flag", [["--format", "csv"], ["--format=csv"]])
def test_a_command_prints_its_table_alone(capsys, flag):
    assert main(["methods", "--table", *flag]) == 0
    out, err = capsys.readouterr()
    first, *lines = csv.reader(io.StringIO(out))
    assert first[0] == "method" and {len(line) for line in lines} == {len(first)}
    assert "denkf" in {line[0] for line in lines} and "Cost" in err
    # The next command of this process prints as ever.
    assert main(["methods"]) == 0
    assert not capsys.readouterr().err


def test_an_unknown_format_is_told(capsys):
    assert main(["methods", "--format", "xml"]) == 2
    assert "choose one of table, csv, latex" in capsys.readouterr().err


@pytest.mark.slow
def test_scores_of_a_run_are_a_table_for_a_paper(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = "simulate --system lorenz63 --steps 8 --every 4 --std 1 --out twin --threads 1"
    assert main(words.split()) == 0
    capsys.readouterr()
    words = "assimilate --system lorenz63 --observations twin/observations.csv --members 5"
    words += " --truth twin/truth.nc --threads 1 --format latex"
    assert main(words.split()) == 0
    out, err = capsys.readouterr()
    assert out.startswith(r"\begin{tabular}") and out.endswith("\\end{tabular}\n")
    assert "past data only & EnKF" in out and "posterior: run.zarr" in err
