"""What each command takes, and how its help reads. No command is run here, and none is imported."""

import argparse
from collections.abc import Mapping
from typing import Any

from agent import __version__, codes

_SOCKET = "/run/leasehold/leasehold.sock"
_CONFIG = "/etc/leasehold/agent.toml"


def parser(
    environ: Mapping[str, str] | None = None, *, complete: Mapping[str, object] | None = None
) -> argparse.ArgumentParser:
    """The parser of the whole command line; the parsed `command` names the one that was asked for.

    Args:
        environ: where LEASEHOLD_CONFIG and LEASEHOLD_SOCKET may stand in for the defaults.
        complete: how a shell completes a role's name and a file's, by "role" and "file"; for the generator of those
            scripts alone.
    """
    return _Commands(environ or {}, complete or {}).parser


class _Commands:
    def __init__(self, environ: Mapping[str, str], complete: Mapping[str, object]) -> None:
        self._config_file = environ.get("LEASEHOLD_CONFIG", _CONFIG)
        self._socket_path = environ.get("LEASEHOLD_SOCKET", _SOCKET)
        self._complete = complete
        self.parser = argparse.ArgumentParser(
            prog="leasehold",
            description="Short-lived database credentials for the app next door: obtained, renewed, replaced with\n"
            "overlap, handed over as a file and on a Unix socket.",
            epilog=codes.EXPLAINED,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.parser.add_argument("--version", action="version", version=f"leasehold {__version__}")
        self._commands = self.parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
        self._add_agents()
        self._add_readers()
        self._add_operators()

    def _add(self, name: str, text: str, *more: str) -> Any:
        return self._commands.add_parser(
            name,
            help=text,
            description="\n".join((f"{text[0].upper()}{text[1:]}.", *more)),
            epilog=codes.EXPLAINED,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    # -- what runs the agent ----------------------------------------------------------------------------------------

    def _add_agents(self) -> None:
        run = self._add("run", "run the agent until SIGTERM", "A second signal skips the grace.")
        self._config(run)
        _logging(run)

        once = self._add(
            "once",
            "obtain the required roles, write their files, and end without revoking",
            "For an init container. With state_dir on a volume that the sidecar mounts too, the sidecar goes on",
            "with the same users; without it they live to their end, unrenewed. It opens no socket. What is not",
            "there in time is named, everything is revoked, and the exit code is 1.",
        )
        self._config(once)
        _timeout(once, "60s", "longest time for all of it")
        _logging(once)

        dev = self._add("dev", "try it: a throwaway PostgreSQL, one role, its file and its socket", "Ctrl-C ends it.")
        dev.add_argument(
            "--dir", metavar="DIR", help="where file and socket go; a fresh directory in memory by default"
        )
        dev.add_argument(
            "--ttl", default="30s", metavar="DURATION", help="length of a lease, at least 5s (default 30s)"
        )
        dev.add_argument(
            "--max-ttl",
            default="90s",
            metavar="DURATION",
            help="renewals end here and the user is replaced (default 90s)",
        )
        dev.add_argument("--json", action="store_true", help="one line of JSON once it is ready, and nothing else")

        check = self._add("check", "say everything that is wrong with a configuration file")
        self._config(check)
        check.add_argument("file", nargs="?", metavar="FILE", help="the file, in place of --config")
        check.add_argument("--live", action="store_true", help="mint, log in, renew and revoke once for every role")
        check.add_argument(
            "--engine",
            action="store_true",
            help="--live, and first which rights its own login lacks or has too many of",
        )
        check.add_argument("--users", action="store_true", help="only the lease users that are there, and their rights")
        _json(check, "one document of all that was found")

    # -- what apps and their scripts ask ----------------------------------------------------------------------------

    def _add_readers(self) -> None:
        get = self._add("get", "print a credential")
        self._role(get, "role", help="its path, or the path's last part where that is unique")
        get.add_argument("--field", metavar="NAME", help="only this value, e.g. password")
        _json(get, "the agent's whole answer")
        self._socket(get)

        status = self._add("status", "how every role is doing", "Exit code 1 while the agent is not ready.")
        status.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
        _json(status, "the agent's own report")
        self._socket(status)

        rotate = self._add("rotate", "replace a credential now, with overlap, and wait for the new one")
        self._role(rotate, "role", help="its path, or the path's last part where that is unique")
        rotate.add_argument("--revoke-after", metavar="DURATION", help="revoke the old one this soon, e.g. 30s")
        _timeout(rotate, "30s", "longest wait")
        self._socket(rotate)

        wait = self._add(
            "wait",
            "block until the agent has started, is ready, or has a credential",
            "For entry points and scripts; the socket need not be there yet. Without an option it waits for the",
            "start: every required role was published and its files are written. Several options must all hold.",
        )
        wait.add_argument("--started", action="store_true", help="started (the default)")
        wait.add_argument("--ready", action="store_true", help="every required role can be used now")
        self._role(wait, "--role", action="append", default=[], help="this role has a credential; may be repeated")
        _timeout(wait, "60s", "longest wait")
        self._socket(wait)

        probe = self._add(
            "probe",
            "one question to the agent, for an exec probe: exit code 0 or 1",
            "Starts in a fraction of a Python program's usual time; nothing but the answer is read.",
        )
        probe.add_argument("question", choices=["started", "ready", "live"], help="started is for a startup probe")
        _timeout(probe, "5s", "longest wait for the answer")
        self._socket(probe)

        completion = self._add(
            "completion",
            "print a script with which a shell completes this command",
            'bash: eval "$(leasehold completion bash)"; zsh: the same with its own name, after compinit.',
            "The names of roles come from the running agent.",
        )
        completion.add_argument("shell", choices=["bash", "zsh", "roles"], help="roles: their names, one per line")
        self._socket(completion)

    # -- what operators ask -----------------------------------------------------------------------------------------

    def _add_operators(self) -> None:
        leases = self._add(
            "leases",
            "which leases there are",
            "Those that the running agent holds, for the roles that this uid may read. With --everyone those of all",
            "pods, from the journals: that needs the configuration and the agent's own login, and no agent.",
        )
        self._role(leases, "--role", help="only this role, or all below this path")
        leases.add_argument("--upstream", "--engine", metavar="NAME", help="only this upstream, e.g. postgresql")
        leases.add_argument("--group-by", choices=["role", "owner", "upstream"], help="count instead, the most first")
        self._everyone(leases, "the leases of every pod, from the journals")
        _json(leases, "everything that is known of each")
        self._socket(leases)

        stats = self._add("stats", "how many leases there are, by state, role and upstream")
        _json(stats, "one document")
        self._socket(stats)

        revoke = self._add(
            "revoke",
            "end leases for good, with the sessions of their users",
            "For operators (listener.unix.allow_admin); the agent obtains others where it needs them. With --everyone",
            "those of all pods: for an incident, with the configuration and the agent's own login, and no agent.",
            "It asks first; where nobody can be asked, it wants --yes.",
        )
        which = revoke.add_mutually_exclusive_group(required=True)
        which.add_argument("lease", nargs="?", metavar="LEASE_ID", help="this one; `leasehold leases` has the ids")
        option = which.add_argument(
            "--prefix", metavar="PATH", help="every lease of this role, or of all below this path"
        )
        self._completed(option, "role")
        self._everyone(revoke, "whoever holds them, by the journals")
        revoke.add_argument("--yes", action="store_true", help="do not ask")
        self._socket(revoke)

        sweep = self._add(
            "sweep",
            "end what has expired and still has its user, once, and say what is left",
            "For cron, where no agent stays. Whatever could not be ended is named, with what is in the way.",
        )
        self._config(sweep)
        sweep.add_argument("--dry-run", action="store_true", help="only list what is due")
        _timeout(sweep, "60s", "goes on until nothing is due, or for this long")
        _json(sweep, "what was done and what is left, by upstream")

        audit = self._add(
            "audit",
            "what happened to leases, from the journals, oldest first",
            "A journal keeps every lease for journal_retention after its end; of its renewals only the newest, and",
            "no reads.",
        )
        self._config(audit)
        audit.add_argument("--user", metavar="NAME", help="only the lease of this database user")
        self._role(audit, "--role", help="only this role, or all below this path")
        audit.add_argument("--lease", metavar="LEASE_ID", help="only this lease")
        audit.add_argument("--since", metavar="DURATION", help="only what happened in this time, e.g. 24h")
        _json(audit, "everything that is known of each")

    # -- what is asked of arguments everywhere ----------------------------------------------------------------------

    def _role(self, made: Any, name: str, **how: Any) -> None:
        self._completed(made.add_argument(name, metavar="ROLE", **how), "role")

    def _everyone(self, made: Any, text: str) -> None:
        made.add_argument("--everyone", action="store_true", help=text)
        self._config(made)

    def _config(self, made: Any) -> None:
        text = f"the configuration (default {self._config_file})"
        self._completed(
            made.add_argument("-c", "--config", default=self._config_file, metavar="FILE", help=text), "file"
        )

    def _socket(self, made: Any) -> None:
        text = f"where the agent listens (default {self._socket_path})"
        self._completed(
            made.add_argument("-s", "--socket", default=self._socket_path, metavar="PATH", help=text), "file"
        )

    def _completed(self, option: Any, what: str) -> None:
        if what in self._complete:
            option.complete = self._complete[what]


def _logging(made: Any) -> None:
    made.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="in place of the file's")
    made.add_argument("--log-filter", default="", metavar="PART", help="only lines of parts whose name holds this")


def _timeout(made: Any, default: str, text: str) -> None:
    made.add_argument("--timeout", default=default, metavar="DURATION", help=f"{text} (default {default})")


def _json(made: Any, text: str) -> None:
    made.add_argument("--json", action="store_true", help=text)
