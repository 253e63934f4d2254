"""A damaged header gives data or one sentence: no traceback, no memory, no minutes."""

import pytest

from malformed.headers import run


@pytest.mark.slow
def test_damaged_headers_are_read_or_refused_in_one_sentence(tmp_path, unchecked):
    tried, refused, failures = run(tmp_path, 0, 400, seconds=20.0)
    assert not failures, "\n".join(failures)
    # Most changes cannot be read; some, such as of a title, can.
    assert tried > 30 and refused > tried / 3
