"""What the commands with --everyone say where the upstreams are Vaults, which have no journal."""

from pathlib import Path

import pytest

from agent import codes
from agent.cli import main
from tests.unit.config.documents import at_vault


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "agent.toml"
    path.write_text(at_vault(rest='[listener.unix]\naddress = "/agent.sock"\n'))
    return str(path)


@pytest.mark.parametrize(
    ("argv", "instead"),
    [
        (("leases", "--everyone"), "`bao list sys/leases/lookup/PATH`"),
        (("leases", "--everyone", "--upstream", "vault"), "`leasehold leases` without --everyone"),
        (("revoke", "--prefix", "database", "--everyone", "--yes"), "`bao lease revoke -prefix PATH`"),
        (("audit",), "the file of [audit]"),
    ],
)
def test_what_needs_a_journal_says_that_a_vault_has_none_and_what_to_do_there(
    argv: tuple[str, ...], instead: str, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main([*argv, "-c", file])

    out, err = capsys.readouterr()
    assert (code, out) == (codes.MISTAKE, "")
    assert err.startswith("leasehold: vault: has no journal: ")
    assert instead in err
