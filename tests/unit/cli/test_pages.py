"""docs/commands.md, the README's table and `--help` say the same."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import codes
from agent.arguments import parser
from agent.cli import COMMANDS

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "commands.md").read_text()
README = (ROOT / "README.md").read_text()


def _commands() -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """Name, one-line help and parser of every command."""
    (choice,) = [each for each in parser()._actions if isinstance(each, argparse._SubParsersAction)]
    texts = {each.dest: each.help or "" for each in choice._choices_actions}
    for name, made in choice.choices.items():
        yield name, texts[name], made


def options(made: argparse.ArgumentParser) -> list[tuple[str, str]]:
    """What stands in the page's table for each argument: how it is written, and its help."""
    rows = []
    for action in made._actions:
        if action.dest == "help":
            continue
        values = action.metavar or (" | ".join(action.choices) if action.choices else "")
        takes = "" if action.nargs == 0 else str(values)
        names = [f"{name} {takes}".strip() for name in action.option_strings] or [takes]
        rows.append((", ".join(f"`{name}`" for name in names), action.help or ""))
    return rows


def section(name: str) -> str:
    """The page's text on one command."""
    _, found, below = PAGE.partition(f"\n## `leasehold {name}`\n")
    assert found, f"docs/commands.md has no section on {name}"
    return re.split(r"\n## ", below)[0]


COMMAND_LINE = list(_commands())
NAMES = [name for name, _, _ in COMMAND_LINE]


def test_every_command_can_be_run_and_has_a_section() -> None:
    assert set(COMMANDS) == set(NAMES)
    assert re.findall(r"\n## `leasehold (\w+)`\n", PAGE) == NAMES


@pytest.mark.parametrize(("name", "text", "made"), COMMAND_LINE, ids=NAMES)
def test_the_page_has_the_options_of_the_command(name: str, text: str, made: argparse.ArgumentParser) -> None:
    found = section(name)
    rows = [(left.replace("\\|", "|"), right) for left, right in re.findall(r"(?m)^\| (`.+?`) \| (.+) \|$", found)]

    assert rows == options(made)
    assert f"{text[0].upper()}{text[1:]}." in found


@pytest.mark.parametrize(("name", "text", "made"), COMMAND_LINE, ids=NAMES)
def test_every_argument_is_explained(name: str, text: str, made: argparse.ArgumentParser) -> None:
    assert all(meaning for _, meaning in options(made))


def test_the_page_explains_the_exit_codes_in_the_same_words() -> None:
    for line in codes.EXPLAINED.splitlines()[1:]:
        code, _, meaning = line.strip().partition("  ")
        assert f"| {code} | {meaning} |" in PAGE


def test_the_readme_has_every_command_with_its_line() -> None:
    for name, text, _ in COMMAND_LINE:
        assert f"| `{name}` | {text} |" in README
