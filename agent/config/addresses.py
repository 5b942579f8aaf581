"""TCP addresses in the file: `"127.0.0.1:8210"` to listen at, `"https://vault:8200"` and `"vault:8200"` to call."""

import re

_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([0-9.]{7,15})|(localhost)):([0-9]{1,5})", re.ASCII)
_HOST = r"(?:\[([0-9a-fA-F:.]{2,45})\]|([A-Za-z0-9._-]{1,253}))"
_PLACE = re.compile(rf"{_HOST}:([0-9]{{1,5}})", re.ASCII)
_URL = re.compile(rf"(https?)://{_HOST}(?::([0-9]{{1,5}}))?", re.ASCII)
_LOOPBACK = re.compile(r"127(?:\.[0-9]{1,3}){3}", re.ASCII)
_MAX_PORT = 65535
_CLOUDS = ("fd00:ec2::254", "fd00:ec2::23")  # AWS: the instance's metadata and Pod Identity by IPv6
_PORTS = {"http": 80, "https": 443}


def split_address(text: str) -> tuple[str, int] | None:
    """Address and port to listen at, no name to look up; None for anything else. `localhost` means 127.0.0.1."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[4]) <= _MAX_PORT:
        return None
    host = found[1] or found[2] or "127.0.0.1"
    return (host, int(found[4])) if _ip(host, 6 if found[1] else 4) else None


def split_url(text: str) -> tuple[str, str, int] | None:
    """Scheme, host and port of "https://HOST:PORT"; None where `text` is or has anything else.

    Without a port it is the scheme's own, 443 or 80.
    """
    found = _URL.fullmatch(text)
    if found is None:
        return None
    place = _place(found[2], found[3], found[4] or str(_PORTS[found[1]]))
    return (found[1], *place) if place is not None else None


def split_place(text: str) -> tuple[str, int] | None:
    """Host and port of "HOST:PORT"; None where `text` is something else."""
    found = _PLACE.fullmatch(text)
    return _place(found[1], found[2], found[3]) if found is not None else None


def _place(address: str | None, name: str, port: str) -> tuple[str, int] | None:
    if not 0 < int(port) <= _MAX_PORT or (address is not None and not _ip(address, 6)):
        return None
    return address or name, int(port)


def everywhere(text: str) -> bool:
    """Whether it means every address of the machine."""
    found = split_address(text)
    return found is not None and not any(c in "123456789abcdefABCDEF" for c in found[0])


def loopback(host: str) -> bool:
    """Whether what is sent to `host` stays on this machine."""
    return host.lower() in ("localhost", "::1") or (_LOOPBACK.fullmatch(host) is not None and _ip(host, 4))


def link_local(host: str) -> bool:
    """Whether `host` is an address that no router forwards to, as those are of a cloud's metadata service."""
    from ipaddress import ip_address

    try:
        return host in _CLOUDS or ip_address(host).is_link_local
    except ValueError:
        return False


def _ip(host: str, version: int) -> bool:
    from ipaddress import ip_address  # a program that only asks for help does not pay for it

    try:
        return ip_address(host).version == version
    except ValueError:
        return False
