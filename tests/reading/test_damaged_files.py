"""Whatever the bytes of a file are, the user gets data or one sentence."""

import pytest

from damage import KINDS, run
from scorda.reading.records import read_fields


def test_whole_files_are_read(tmp_path):
    run(tmp_path, 0, 0)
    for kind in KINDS[:4]:
        assert read_fields(tmp_path / "good" / kind).states.shape == (1, 30, 3, 4)


@pytest.mark.slow
def test_damaged_files_are_read_or_refused_in_one_sentence(tmp_path):
    """A thousand files, the same everywhere; ``python tests/damage.py 1000 9000`` tries others."""
    tried, refused = run(tmp_path, 0, 1000)
    assert tried == 1000 and refused > 0.2 * tried
