"""`leasehold completion`: a script that a shell loads once. shtab writes it, and is imported for nothing else."""

import argparse
import re

from agent import codes
from agent.arguments import parser
from agent.client import report

_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")
_ROLES = "_leasehold_roles"
_PREAMBLE = {
    "bash": f'{_ROLES}() {{\n  compgen -W "$(leasehold completion roles 2>/dev/null)" -- "$1"\n}}\n',
    "zsh": f'{_ROLES}() {{\n  compadd -- ${{(f)"$(leasehold completion roles 2>/dev/null)"}}\n}}\n',
}


def completion(arguments: argparse.Namespace) -> int:
    """Print a shell's script, or what that script asks for: the roles of the running agent."""
    if arguments.shell == "roles":
        print("\n".join(_names(list(report(arguments.socket, timeout=1.0)["roles"]))))
        return codes.OK
    import shtab

    complete = {"role": dict.fromkeys(_PREAMBLE, _ROLES), "file": shtab.FILE}
    print(shtab.complete(parser(complete=complete), arguments.shell, preamble=_PREAMBLE[arguments.shell]))
    return codes.OK


def _names(roles: list[str]) -> list[str]:
    """Every role, and its last part where that is unique.

    bash expands what it is given to choose from: a name that it could take for a command is left out, whoever it was
    that answered on the socket.
    """
    plain = [role for role in roles if _PLAIN.fullmatch(role)]
    last = [role.rpartition("/")[2] for role in plain]
    return sorted({*plain, *(name for name in last if last.count(name) == 1)})
