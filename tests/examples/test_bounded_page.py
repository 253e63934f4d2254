"""The example of docs/bounded.md runs, and its states are inside of their bounds."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "bounded.md"


@pytest.mark.slow
def test_the_example_of_the_page_runs(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 1
    names = {}
    exec(compile(blocks[0], PAGE.name, "exec"), names)
    states = names["analysis"].states
    assert (states > 0).all() and (states[..., 0] < 1).all()
    assert "tensor" in capsys.readouterr().out
