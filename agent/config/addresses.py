"""A TCP address in the file, `"127.0.0.1:8210"` or `"[::1]:8210"`: an address and a port, never a name to look up."""

import re

_ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]{2,45})\]|([0-9.]{7,15})|(localhost)):([0-9]{1,5})", re.ASCII)
_MAX_PORT = 65535


def split_address(text: str) -> tuple[str, int] | None:
    """Address and port; None where `text` is something else. `localhost` means 127.0.0.1."""
    found = _ADDRESS.fullmatch(text)
    if found is None or not 0 < int(found[4]) <= _MAX_PORT:
        return None
    host = found[1] or found[2] or "127.0.0.1"
    return (host, int(found[4])) if _ip(host, 6 if found[1] else 4) else None


def everywhere(text: str) -> bool:
    """Whether it means every address of the machine."""
    found = split_address(text)
    return found is not None and not any(c in "123456789abcdefABCDEF" for c in found[0])


def _ip(host: str, version: int) -> bool:
    from ipaddress import ip_address  # a program that only asks for help does not pay for it

    try:
        return ip_address(host).version == version
    except ValueError:
        return False
