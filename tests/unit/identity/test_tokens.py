"""Logins with one token of one file."""

from pathlib import Path

import pytest

from agent.errors import ConfigError, NoIdentity
from tests.fakes import FakeClock
from tests.unit.identity.builders import WALL, identity, jwt, revealed


@pytest.mark.parametrize(
    ("mount", "path"),
    [
        (None, "auth/kubernetes/login"),
        ("kubernetes", "auth/kubernetes/login"),
        ("auth/kubernetes", "auth/kubernetes/login"),
        ("/auth/clusters/eu-1/", "auth/clusters/eu-1/login"),
        ("authority", "auth/authority/login"),
    ],
)
async def test_kubernetes_logs_in_at_its_mount_with_or_without_auth_before_it(
    tmp_path: Path, clock: FakeClock, mount: str | None, path: str
) -> None:
    """Row R004-054."""
    (tmp_path / "token").write_text(jwt(exp=WALL + 600) + "\n")

    proof = await identity(
        "kubernetes", clock, mount_path=mount, namespace="team", token_path=str(tmp_path / "token"), role="app"
    ).prove()

    assert proof.path == path
    assert revealed(proof.body) == {"role": "app", "jwt": jwt(exp=WALL + 600)}
    assert (proof.namespace, proof.token, proof.certificate) == ("team", None, None)


async def test_jwt_logs_in_with_its_own_file_and_without_a_role_where_none_is_set(
    tmp_path: Path, clock: FakeClock
) -> None:
    (tmp_path / "token").write_text(jwt(sub="pod"))

    proof = await identity("jwt", clock, mount_path="jwt-eu", path=str(tmp_path / "token")).prove()

    assert proof.path == "auth/jwt-eu/login"
    assert revealed(proof.body) == {"jwt": jwt(sub="pod")}


@pytest.mark.parametrize("kind", ["kubernetes", "jwt"])
async def test_a_token_that_has_ended_is_named_before_any_call_and_its_successor_is_taken(
    tmp_path: Path, clock: FakeClock, kind: str
) -> None:
    """Row R004-004."""
    path = tmp_path / "token"
    path.write_text(jwt(exp=WALL - 300))
    config = {"token_path": str(path)} if kind == "kubernetes" else {"path": str(path)}
    subject = identity(kind, clock, role="app", **config)  # type: ignore[arg-type]

    with pytest.raises(NoIdentity) as caught:
        await subject.prove()
    path.write_text(jwt(exp=WALL + 600))

    assert f"{path} ended 5 min ago; is whoever writes it (the kubelet, for one) rotating it?" in str(caught.value)
    assert "jwt" in (await subject.prove()).body


async def test_what_is_no_jwt_is_refused_without_showing_it(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "token").write_text("hunter2")

    with pytest.raises(NoIdentity, match="does not hold a JWT") as caught:
        await identity("kubernetes", clock, token_path=str(tmp_path / "token"), role="app").prove()

    assert "hunter2" not in str(caught.value)


async def test_a_token_file_is_the_login_itself_and_binds_it(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "token").write_text("hvs.token\n")
    subject = identity("token_file", clock, token_file_path=str(tmp_path / "token"))

    proof = await subject.prove()
    await subject.accepted()

    assert (proof.path, proof.body) == ("", {})
    assert proof.token is not None
    assert proof.token.reveal() == "hvs.token"
    assert subject.binding
    assert (tmp_path / "token").exists()


async def test_a_rotated_token_leaves_the_login_it_was_used_for_alone(tmp_path: Path, clock: FakeClock) -> None:
    assert not identity("kubernetes", clock, token_path=str(tmp_path / "token")).binding


async def test_no_secret_shows_in_a_proofs_repr(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "token").write_text(jwt(sub="canary"))

    proof = await identity("kubernetes", clock, token_path=str(tmp_path / "token"), role="app").prove()

    assert jwt(sub="canary") not in repr(proof)


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("jwt", "path"),
        ("token_file", "token_file_path"),
        ("approle", "role_id_file_path"),
        ("cert", "client_cert"),
    ],
)
def test_a_method_without_its_file_is_a_mistake_of_the_configuration(clock: FakeClock, kind: str, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"auto_auth\.method\.config\.{key}: is missing"):
        identity(kind, clock)  # type: ignore[arg-type]
