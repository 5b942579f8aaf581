"""docs/identity.md: its examples are sound, and what it quotes of errors is said."""

import re
from pathlib import Path
from typing import get_args

import pytest

from agent.config.check import mistakes
from agent.config.load import load
from agent.config.upstreams import MethodType

TREE = Path(__file__).parents[3]
PAGE = (TREE / "docs" / "identity.md").read_text()
ENVIRONMENT = {
    "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/app",
    "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/eks.amazonaws.com/serviceaccount/token",
    "AZURE_CLIENT_ID": "client",
    "AZURE_TENANT_ID": "tenant",
    "AZURE_FEDERATED_TOKEN_FILE": "/var/run/secrets/azure/tokens/azure-identity-token",
}
AROUND = """
[vault]
address = "https://vault:8200"
[role."database/creds/app"]
upstream = "vault"
"""
EXAMPLES = dict(re.findall(r"^## (\w+)\n.*?```toml\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


def test_every_method_has_an_example() -> None:
    assert set(EXAMPLES) == set(get_args(MethodType))


@pytest.mark.parametrize("kind", EXAMPLES)
def test_the_example_of_a_method_can_be_used_as_it_stands(kind: str) -> None:
    config = load(AROUND + EXAMPLES[kind], environ=ENVIRONMENT)

    assert mistakes(config) == []
    assert config.auto_auth is not None
    assert config.auto_auth.method is not None
    assert config.auto_auth.method.type == kind


def test_what_the_page_quotes_of_errors_stands_in_the_program() -> None:
    source = "\n".join(path.read_text() for path in (TREE / "agent").rglob("*.py"))
    quoted = [
        each.strip("… ")
        for row in re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)
        for each in re.findall("`(.*?)`", row)
    ]
    quoted = [each for each in quoted if " " in each]
    words = [word for each in quoted for word in re.split(r"FILE|64 KiB|5 min|\(.*?\)|MOUNT|ARN|…", each)]

    missing = [word.strip(" :") for word in words if not _said(word.strip(" :"), source)]

    assert len(quoted) > 10
    assert missing == []


def _said(words: str, source: str) -> bool:
    """Whether the program has these words, in one text or two that it puts together."""
    return any(
        words[:cut].strip() in source and words[cut:].strip() in source
        for cut in range(len(words) // 2, len(words) + 1)
    )
