"""The approle method: a role id and, as a rule, a secret id, both in files; the latter possibly wrapped, or removed.

A wrapping token is opened once. One that has been opened, or refused, is not sent again until the file changes: the
second use of such a token is what an interception looks like, and the alarm is to ring for that alone (row D-31). What
was in it is kept in memory for later logins; so is a secret id whose file was to be removed.
"""

import os
import stat
from collections.abc import Mapping

from agent import log
from agent.clock import Clock
from agent.config.upstreams import Method
from agent.errors import NoIdentity
from agent.identity.files import Reading, Source, read
from agent.identity.mounts import login_path
from agent.identity.proof import Proof, Unwrap
from agent.identity.watched import Files, FromFiles
from agent.leases.lease import Secret
from agent.log import Event
from agent.offload import in_daemon_thread

_log = log.get(__name__)

_DEADLINE = 5.0


class AppRole(FromFiles):
    """A role id, and a secret id where one is configured."""

    def __init__(self, method: Method, role_id: str, clock: Clock, unwrap: Unwrap) -> None:
        config = method.config
        sources = [_role_id(role_id)]
        if config.secret_id_file_path is not None:
            sources.append(
                _secret_id(config.secret_id_file_path, wrapped=bool(config.secret_id_response_wrapping_path))
            )
        super().__init__(Files(sources, clock))
        self._method = method
        self._clock = clock
        self._secret_ids = _SecretIds(config.secret_id_response_wrapping_path, unwrap)
        self._removes = config.remove_secret_id_file_after_reading
        self._used: Reading | None = None
        self._told: set[str] = set()

    async def prove(self) -> Proof:
        """The login's request, with what the files hold now or held when they were removed."""
        self._used = None
        role_id, *secret_id = await self._files.read()
        body = {"role_id": role_id.secret()}
        for reading in secret_id:
            body["secret_id"] = await self._secret_ids.of(reading)
            self._used = None if reading.missing else reading
        return Proof(path=login_path(self._method), body=body, namespace=self._method.namespace)

    async def accepted(self) -> None:
        """Remove the secret id's file, if that is configured and it still holds what the login was made with."""
        used, self._used = self._used, None
        if used is None or not self._removes:
            return
        self._secret_ids.outlives_its_file = True
        try:
            async with self._clock.timeout(_DEADLINE):
                kept, now = await in_daemon_thread(lambda: _remove(used))
        except OSError as error:  # no thread to be had, or a mount that hangs (TimeoutError)
            kept, now = f"cannot be removed ({error.strerror or 'its file system does not answer'})", used
        if now.missing:
            self._files.removed(used.source, now)
        if kept and kept not in self._told:
            self._told.add(kept)
            _log.warning(Event.IDENTITY, path=used.source.path, warning=f"{used.source.what} {kept}")


class _SecretIds:
    """Secret ids, from the contents of their file.

    Attributes:
        outlives_its_file: the last one goes on being used when the file is gone, since we have removed it.
    """

    def __init__(self, made_at: str | None, unwrap: Unwrap) -> None:
        self.outlives_its_file = False
        self._made_at = made_at
        self._unwrap = unwrap
        self._mark = ""
        self._known: Secret | NoIdentity | None = None

    async def of(self, reading: Reading) -> Secret:
        """The secret id that the file holds, or wraps.

        Raises:
            NoIdentity: there is none, or it cannot be had (any more).
            Unavailable: the server cannot unwrap it now.
        """
        if reading.missing and self.outlives_its_file and isinstance(self._known, Secret):
            return self._known
        text = reading.secret()
        if reading.mark != self._mark:
            self._mark, self._known, self.outlives_its_file = reading.mark, None, False
        if self._known is None:
            self._known = text if self._made_at is None else await self._opened(reading, text, self._made_at)
        if isinstance(self._known, NoIdentity):
            raise NoIdentity(str(self._known))
        return self._known

    async def _opened(self, reading: Reading, token: Secret, made_at: str) -> Secret | NoIdentity:
        """What the wrapping token wraps, or why it will never be had.

        Where the server does not answer, nothing is settled (Unavailable): the unwrapper looks a token up before it
        opens it, so another try tells what became of this one.
        """
        try:
            found: Mapping[str, Secret] = await self._unwrap(token, made_at)
        except NoIdentity as refused:
            return NoIdentity(f"{reading.source.path}: {refused}")
        secret_id = found.get("secret_id")
        if secret_id is None or not secret_id.reveal():
            wrong = f"wraps no secret id; wrap the answer of {made_at}"
            return NoIdentity(f"{reading.source.what} {reading.source.path} {wrong}")
        return secret_id


def _remove(used: Reading) -> tuple[str, Reading]:
    """Remove the file if it still holds what was used.

    A link is removed with its target where that is a file beside it. What it links to elsewhere is somebody else's to
    keep, and stays, as does the link: a mounted volume comes back whatever is removed.

    Returns:
        Why it stays, "" where it is gone or was replaced meanwhile; and what is in its place now.
    """
    path = used.source.path
    now = read(used.source)
    if now.mark != used.mark:
        return "", now
    target = os.path.realpath(path)
    if os.path.dirname(target) != os.path.realpath(os.path.dirname(path)):
        return "is a link to another directory, so it is not removed; give the file itself", now
    try:
        os.unlink(target)
        if stat.S_ISLNK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"cannot be removed ({error.strerror}); mount it writable, or do not ask for its removal", read(
            used.source
        )
    return "", read(used.source)


def _role_id(path: str) -> Source:
    return Source(path=path, what="the role id", remedy="write it there, or set role_id_file_path", public=True)


def _secret_id(path: str, *, wrapped: bool) -> Source:
    what = "the wrapping token of the secret id" if wrapped else "the secret id"
    return Source(path=path, what=what, remedy="have a new one delivered there, or set secret_id_file_path")
