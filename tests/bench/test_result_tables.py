"""The tables of the documentation are those of the results."""

import pytest

from scripts import load_script


@pytest.fixture(scope="module")
def tables():
    return load_script("benchmarks/tables.py")


def test_every_page_has_the_numbers_of_the_results(tables, capsys):
    assert tables.main(["--check"]) == 0, capsys.readouterr().out


def test_a_changed_number_is_found_and_mended(tables, tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("method,crps,error\nEnKF,0.2,0.01\n")
    page = tmp_path / "page.md"
    mark = "<!-- table: a.csv\nmethod: {method}\nCRPS: {crps} ± {error}\n-->\n"
    right = f"# Page\n\n{mark}\n| method | CRPS |\n| --- | --- |\n| EnKF | 0.2 ± 0.01 |\n"
    right += "\n<!-- /table -->\nEnd.\n"
    page.write_text(right.replace("0.2 ±", "0.1 ±"))
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    monkeypatch.setattr(tables, "PAGES", tmp_path)
    assert tables.main(["--check"]) == 1
    assert tables.main([]) == 0 and page.read_text() == right
    assert tables.main(["--check"]) == 0


def test_fields_in_a_heading_make_columns_and_empty_fields_take_their_sign_away(tables):
    records = [
        {"method": "EnKF", "gap": "1", "crps": "0.2", "error": "0.01"},
        {"method": "EnKF", "gap": "4", "crps": "0.3", "error": ""},
        {"method": "SF", "gap": "4", "crps": "", "error": "0.1"},
    ]
    columns = [("method", "{method}"), ("gap {gap}", "{crps} ± {error}")]
    assert tables.table(records, columns).splitlines() == [
        "| method | gap 1 | gap 4 |",
        "| --- | --- | --- |",
        "| EnKF | 0.2 ± 0.01 | 0.3 |",
        "| SF |  | 0.1 |",
    ]
    with pytest.raises(KeyError):
        tables.table(records, [("a", "{unknown}")])


def test_rows_are_kept_by_a_value(tables, tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text("case,x\none,1\ntwo words,2\n")
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    text = "<!-- table: a.csv where case=two words\nx: {x}\n-->\n<!-- /table -->\n"
    assert "| 2 |" in tables.rendered(text) and "| 1 |" not in tables.rendered(text)
