"""What the README prints is what is run."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_python_example_is_the_one_that_the_end_to_end_tests_run() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    printed = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    example = (ROOT / "examples/quickstart.py").read_text(encoding="utf-8")
    code = example.split('"""', 2)[2].strip()
    assert [block.strip() for block in printed] == [code]
    assert len(code.splitlines()) <= 15


def test_every_file_that_the_readme_links_is_there() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)\)", readme)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
