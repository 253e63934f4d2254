"""The page of all figures says of each how it was made, and survives what people do to folders."""

from dataclasses import replace

import pytest

from scorda.report.gallery import Record, add_record, write_gallery

RECORD = Record("b", "What <b> is.", "scorda bench b", {"seeds": "0 to 2"}, {"b.png": "A & B"})


def test_a_page_has_every_figure_with_its_command(tmp_path):
    (tmp_path / "b.png").write_bytes(b"png")
    (tmp_path / "a.gif").write_bytes(b"gif")
    add_record(tmp_path, RECORD)
    page = add_record(
        tmp_path, replace(RECORD, name="a", command="scorda bench a", pictures={"a.gif": "moves"})
    )
    text = page.read_text()
    assert text.index('id="a"') < text.index('id="b"')
    for part in ('src="b.png"', 'src="a.gif"', "A &amp; B", "What &lt;b&gt; is.", "0 to 2"):
        assert part in text
    assert text.count("<pre>scorda bench") == 2


def test_a_later_record_takes_the_place_of_the_earlier_one(tmp_path):
    (tmp_path / "b.png").write_bytes(b"png")
    add_record(tmp_path, RECORD)
    text = add_record(tmp_path, replace(RECORD, title="Another.")).read_text()
    assert "Another." in text and "What" not in text


def test_figures_that_are_gone_are_left_out(tmp_path):
    (tmp_path / "b.png").write_bytes(b"png")
    add_record(tmp_path, RECORD)
    (tmp_path / "b.png").unlink()
    assert "<img" not in write_gallery(tmp_path).read_text()
    with pytest.raises(FileNotFoundError, match="save the picture first"):
        add_record(tmp_path, RECORD)


def test_folders_without_records_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run a benchmark"):
        write_gallery(tmp_path)
    (tmp_path / "x.gallery.json").write_text('{"name": 1}')
    with pytest.raises(ValueError, match="not a record of figures"):
        write_gallery(tmp_path)
