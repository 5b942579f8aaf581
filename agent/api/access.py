"""Who is at the other end of a Unix socket, and whether they may. Free of HTTP: other doors use it too.

The kernel names the caller: its uid, gid and pid as they were when it connected, and its supplementary groups (in a pod
an fsGroup shows only there). Across containers the pid is 0, so nothing may depend on it.
"""

import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from agent.errors import ConfigError

_SO_PEERGROUPS = 59  # Linux; the socket module has no name for it
_UCRED = struct.Struct("iII")
_GID = struct.Struct("I")
# The socket module takes no larger buffer. A peer in more than 256 groups is known by its primary group alone.
_MOST_GROUPS = 1024
_MAX_ID = 2**32 - 2


class Options(Protocol):
    """A socket, or the event loop's stand-in for one."""

    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes:
        """As socket.socket.getsockopt."""
        ...


@dataclass(frozen=True, kw_only=True)
class Peer:
    """The process that connected, in the words of the kernel.

    Attributes:
        uid: its effective user at the time of connecting.
        gid: its primary group.
        groups: its supplementary groups; empty where the kernel does not say.
        pid: its process, 0 across containers; for people only.
    """

    uid: int
    gid: int
    groups: frozenset[int]
    pid: int


if sys.platform == "darwin":
    _SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2
    _XUCRED = struct.Struct("IIh2x16I")

    def peer_of(sock: Options) -> Peer:
        """The peer of a connected Unix socket, by LOCAL_PEERCRED.

        Raises:
            OSError: the kernel does not say; the connection must be refused.
        """
        _, uid, count, *groups = _XUCRED.unpack(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED.size))
        (pid,) = struct.unpack("i", sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4))
        return Peer(uid=uid, gid=groups[0], groups=frozenset(groups[1:count]), pid=pid)

else:

    def peer_of(sock: Options) -> Peer:
        """The peer of a connected Unix socket, by SO_PEERCRED and SO_PEERGROUPS.

        Raises:
            OSError: the kernel does not say; the connection must be refused.
        """
        pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        try:
            packed = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_GROUPS)
        except OSError:  # older kernels and some sandboxes have no SO_PEERGROUPS; fewer rights is the safe side
            packed = b""
        return Peer(uid=uid, gid=gid, groups=frozenset(g for (g,) in _GID.iter_unpack(packed)), pid=pid)


@dataclass(frozen=True, kw_only=True)
class AllowList:
    """Who may do one thing; everybody else may not.

    Attributes:
        uids: these users.
        gids: members of these groups, primary or supplementary.
        anyone: whoever can open the socket.
    """

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()
    anyone: bool = False

    @classmethod
    def parse(cls, entries: Sequence[str], own_uid: int) -> "AllowList":
        """The list that `allow = [...]` means: "uid:N", "gid:N" or "any"; an empty one admits `own_uid` alone.

        Raises:
            ConfigError: an entry is none of these.
        """
        if not entries:
            return cls(uids=frozenset({own_uid}))
        uids: set[int] = set()
        gids: set[int] = set()
        mistakes = []
        for entry in entries:
            kind, _, number = entry.partition(":")
            ids = {"uid": uids, "gid": gids}.get(kind)
            if entry == "any":
                continue
            if ids is None or not (number.isascii() and number.isdigit()) or int(number) > _MAX_ID:
                mistakes.append(f'allow: {entry!r} is none of "uid:NUMBER", "gid:NUMBER" and "any"')
                continue
            ids.add(int(number))
        if mistakes:
            raise ConfigError(mistakes)
        return cls(uids=frozenset(uids), gids=frozenset(gids), anyone="any" in entries)

    def admits(self, peer: Peer) -> bool:
        """Whether `peer` is on the list."""
        return (
            self.anyone
            or peer.uid in self.uids
            or (bool(self.gids) and (peer.gid in self.gids or not self.gids.isdisjoint(peer.groups)))
        )


@dataclass(frozen=True, kw_only=True)
class RoleAccess:
    """What the API must know of a role.

    Attributes:
        read: who may read its credential.
        rotate: who may ask for its replacement.
        rotate_min_interval: seconds between two granted replacements.
        lazy: obtained only when somebody asks.
        connection: fields added to `data` where the lease does not bring them.
    """

    read: AllowList
    rotate: AllowList
    rotate_min_interval: float
    lazy: bool
    connection: Mapping[str, str | int] | None
