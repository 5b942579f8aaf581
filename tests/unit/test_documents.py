"""What the pages point to exists."""

import re
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
PAGES = [TREE / "README.md", TREE / "SECURITY.md", *sorted((TREE / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TREE)))
def test_every_link_and_every_test_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) if "://" not in link]
    named = re.findall(r"`(tests/[\w/.-]+)`", text)

    missing = [link for link in links if not (page.parent / link).exists()]
    missing += [name for name in named if not (TREE / name).exists()]

    assert missing == []
