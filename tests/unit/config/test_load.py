"""What a document becomes, and what is said of its shape.

Files and TOML itself are in test_toml.py, the rules of sense in test_*_rules.py.
"""

import pytest

from agent.config.model import Connection, VerifyTarget
from tests.unit.config.documents import FILE, ROLE, ROLE_PATH, SERVER, document, read, with_file, with_socket, wrong

# -- what a document becomes -----------------------------------------------------------------------------------------


def test_a_role_without_ttls_lives_an_hour_and_at_most_a_day() -> None:
    role = read(document()).role["database/creds/app"]

    assert (role.ttl, role.longest) == (3600.0, 86400.0)


@pytest.mark.parametrize(("profile", "ttl"), [("short", 300.0), ("service", 3600.0), ("batch", 7200.0)])
def test_a_profile_sets_the_default_ttl(profile: str, ttl: float) -> None:
    assert read(document(more_role=f'profile = "{profile}"')).role["database/creds/app"].ttl == ttl


def test_durations_and_modes_are_read_from_strings() -> None:
    config = read(
        document(
            more_server='cleanup_interval = "5s"',
            more_role='default_ttl = "30m"\nmax_ttl = "4h"',
            rest=f'[[template]]\n{FILE}\nperms = "0400"\n[listener.unix]\naddress = "/run/a"\nsocket_mode = "0o600"',
        )
    )

    assert config.postgresql["postgresql"].cleanup_interval == 5.0
    assert (config.role["database/creds/app"].default_ttl, config.role["database/creds/app"].max_ttl) == (
        1800.0,
        14400.0,
    )
    assert config.template[0].perms == 0o400
    assert config.listener.unix is not None
    assert config.listener.unix.socket_mode == 0o600


def test_one_server_is_called_postgresql_with_port_5432_and_tls() -> None:
    server = read(document()).postgresql["postgresql"]

    assert (server.host, server.port, server.dbname, server.sslmode) == ("db", 5432, "app", "require")


def test_several_servers_are_named_after_their_tables() -> None:
    config = read(
        f'[postgresql.main]\n{SERVER}\n[postgresql.other]\n{SERVER}\n[role."db/creds/a"]\n'
        'upstream = "postgresql.other"\ngroup = "readers"'
    )

    assert list(config.postgresql) == ["postgresql.main", "postgresql.other"]


def test_nested_tables_and_arrays_become_values() -> None:
    role = read(
        document(
            more_role="""
            allow = ["uid:1000", "gid:0", "any"]
            connection = { host = "db", dbname = "app" }
            on_failed = ["/bin/page", "$HOME", "${HOME}"]
            [[role."database/creds/app".verify]]
            host = "127.0.0.1"
            dbname = "app"
            sslmode = "disable"
            probe = "SELECT 1"
            """
        )
    ).role["database/creds/app"]

    assert role.allow == ("uid:1000", "gid:0", "any")
    assert role.connection == Connection(host="db", dbname="app")
    assert role.on_failed == ("/bin/page", "$HOME", "${HOME}")
    assert role.verify == (VerifyTarget(host="127.0.0.1", dbname="app", sslmode="disable", probe="SELECT 1"),)


def test_a_text_may_come_as_bytes_with_a_byte_order_mark_and_crlf() -> None:
    text = document().replace("\n", "\r\n")

    assert read(b"\xef\xbb\xbf" + text.encode()) == read(document())


def test_short_leases_are_for_tests_only() -> None:
    text = document(more_role='default_ttl = "2s"\nmax_ttl = "6s"\nmargin = "200ms"\noverlap = "500ms"')

    assert read(text, allow_short=True).role["database/creds/app"].ttl == 2.0
    assert len(wrong(text)) == 3


# -- the shape -------------------------------------------------------------------------------------------------------

SHAPES = {
    "an unknown key, with the nearest known": (
        document(more_role='defualt_ttl = "5m"'),
        f'{ROLE_PATH}.defualt_ttl: unknown key; did you mean "default_ttl"?',
    ),
    "an unknown key that belongs elsewhere": (
        document(rest='[agent]\ndefault_ttl = "5m"'),
        "agent.default_ttl: unknown key here; it belongs to [role.NAME]",
    ),
    "an unknown key like none": (document(more_role="xyzzy = 1"), f"{ROLE_PATH}.xyzzy: unknown key"),
    "a Vault Agent key that is none": (
        with_file('refresh_interval = "5m"'),
        "template[0].refresh_interval: unknown key",
    ),
    "an unknown table": (
        document(rest="[scaivault]"),
        "scaivault: unknown key; known here: agent, audit, listener, postgresql, vault, auto_auth, role, template, "
        "template_config",
    ),
    "a key of strange characters": (document(top='"a\\nb\\"" = 1'), '"a\\u000ab\\"": unknown key; known here: agent, '),
    "a key beyond the first plane": (
        document(top='"\\U000E0001" = 1'),
        '"\\U000e0001": unknown key; known here: agent, ',
    ),
    "a key without end": (document(top="k" * 300 + " = 1"), '"' + "k" * 255 + '…": unknown key; known here: agent, '),
    "a missing key": (document(server='dbname = "app"\nuser = "u"'), "postgresql.host: is required"),
    "no database": (document(server='host = "db"\nuser = "u"'), "postgresql.dbname: is required"),
    "no user": (document(server='host = "db"\ndbname = "app"'), "postgresql.user: is required"),
    "no upstream": (document(role='group = "g"'), f"{ROLE_PATH}.upstream: is required"),
    "no destination": (with_file(file='format = "json"'), "template[0].destination: is required"),
    "no socket address": (with_socket(address=""), "listener.unix.address: is required"),
    "a duration in words": (
        document(more_role='default_ttl = "5 minutes"'),
        f'{ROLE_PATH}.default_ttl: "5 minutes" is not a duration; write "5m"',
    ),
    "a duration without a unit": (
        document(more_role='default_ttl = "90"'),
        f'{ROLE_PATH}.default_ttl: "90" is not a duration; write "90s"',
    ),
    "a negative duration": (
        document(more_role='default_ttl = "-5m"'),
        f'{ROLE_PATH}.default_ttl: "-5m" is not a duration; write it like "5m" or "1h30m"',
    ),
    "a duration that could be anything": (
        document(more_role='default_ttl = "4f8a9c2d"'),
        f'{ROLE_PATH}.default_ttl: the value is not a duration; write it like "5m" or "1h30m"',
    ),
    "a duration of many digits": (
        document(more_role=f'default_ttl = "{"1" * 41}"'),
        f'{ROLE_PATH}.default_ttl: the value is not a duration; write it like "5m" or "1h30m"',
    ),
    "a duration beyond all bounds": (
        document(more_role='default_ttl = "40000d"'),
        f'{ROLE_PATH}.default_ttl: "40000d" is longer than a hundred years; write it like "5m" or "1h30m"',
    ),
    "a number as a duration": (
        document(more_role="default_ttl = 300"),
        f'{ROLE_PATH}.default_ttl: 300 has no unit; write "300s" if it means seconds',
    ),
    "a fraction as a duration": (
        document(more_role="default_ttl = 1.5"),
        f'{ROLE_PATH}.default_ttl: 1.5 has no unit; write "1.5s" if it means seconds',
    ),
    "no number as a duration": (
        document(more_role="default_ttl = nan"),
        f'{ROLE_PATH}.default_ttl: must be a duration such as "5m", not a number',
    ),
    "a boolean as a duration": (
        document(more_role="default_ttl = true"),
        f'{ROLE_PATH}.default_ttl: must be a duration such as "5m", not a boolean',
    ),
    "a number as a mode": (
        with_file("perms = 0o440"),
        'template[0].perms: must be an octal string such as "0440", not a whole number',
    ),
    "a mode that is not octal": (
        with_file('perms = "0888"'),
        'template[0].perms: "0888" is not an octal mode; write it like "0440"',
    ),
    "a mode in letters": (
        with_file('perms = "rw-r-----"'),
        'template[0].perms: the value is not an octal mode; write it like "0440"',
    ),
    "a misspelt choice": (
        document(rest='[agent]\nlog_level = "INOF"'),
        'agent.log_level: must be one of "debug", "info", "warning", "error"; did you mean "info"?',
    ),
    "a choice of two": (
        document(rest='[agent]\non_stop = "leave"'),
        'agent.on_stop: must be one of "revoke", "handover"',
    ),
    "a handover of nothing": (
        document(rest='[agent]\non_stop = "handover"'),
        'agent.on_stop: is "handover", but nothing would be handed over: set state_dir',
    ),
    "a choice that is no string": (
        document(more_role="profile = 3"),
        f'{ROLE_PATH}.profile: must be one of "short", "service", "batch"',
    ),
    "a number as a string": (
        with_socket("socket_group = 2000"),
        'listener.unix.socket_group: must be a string; write "2000"',
    ),
    "a huge number as a string": (
        with_socket(f"socket_group = 0x{'f' * 4000}"),
        "listener.unix.socket_group: must be a string, not a whole number",
    ),
    "a date as a string": (
        document(more_role="description = 1979-05-27"),
        f"{ROLE_PATH}.description: must be a string, not a date or time",
    ),
    "a string as a number": (
        document(more_server='port = "5432"'),
        "postgresql.port: must be a whole number, not a string",
    ),
    "a boolean as a number": (
        document(more_role="retries = true"),
        f"{ROLE_PATH}.retries: must be a whole number, not a boolean",
    ),
    "a string as a share": (
        document(more_role='lease_renewal_threshold = "0.5"'),
        f"{ROLE_PATH}.lease_renewal_threshold: must be a number, not a string",
    ),
    "a huge number as a share": (
        document(more_role=f"lease_renewal_threshold = 0x{'f' * 4000}"),
        f"{ROLE_PATH}.lease_renewal_threshold: must be a number, not a huge number",
    ),
    "a string as a boolean": (
        document(more_role='required = "false"'),
        f"{ROLE_PATH}.required: must be true or false, not a string",
    ),
    "a number as a boolean": (
        document(more_role="required = 0"),
        f"{ROLE_PATH}.required: must be true or false, not a whole number",
    ),
    "a string as an array": (
        document(more_role='allow = "any"'),
        f"{ROLE_PATH}.allow: must be an array, not a string",
    ),
    "a table as an array": (
        document(more_role="verify = { host = 'a', dbname = 'b' }"),
        f"{ROLE_PATH}.verify: must be an array, not a table",
    ),
    "a number in an array": (
        document(more_role='allow = ["any", 7]'),
        f'{ROLE_PATH}.allow[1]: must be a string; write "7"',
    ),
    "a string as a table": (
        document(more_role='connection = "host=db"'),
        f"{ROLE_PATH}.connection: must be a table, not a string",
    ),
    "a string as a verification": (
        document(more_role='verify = ["host=db"]'),
        f"{ROLE_PATH}.verify[0]: must be a table, not a string",
    ),
    "an array as a table": (
        document(rest="[[agent]]"),
        "agent: must be a table, not an array",
    ),
    "a table as an array of tables": (
        document(rest="[template]"),
        "template: must be an array, not a table",
    ),
    "a key among the roles": (
        document(rest="[role]\nrequired = true"),
        "role.required: must be a table, not a boolean",
    ),
    "one server and several": (
        document(rest=f"[postgresql.main]\n{SERVER}"),
        "postgresql: has keys of its own and tables below it; write either one [postgresql], or each server as "
        "[postgresql.NAME]",
    ),
}


@pytest.mark.parametrize(("text", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_a_wrong_shape_is_named_with_its_place_and_remedy(text: str, expected: str) -> None:
    mistakes = wrong(text)

    assert len(mistakes) == 1
    assert mistakes[0] == expected or (expected.endswith(" ") and mistakes[0].startswith(expected))


def test_an_unknown_key_takes_no_other_mistake_of_its_table_away() -> None:
    assert wrong(document(more_role='xyzzy = 1\ndefault_ttl = "1s"')) == [
        f"{ROLE_PATH}.xyzzy: unknown key",
        f'{ROLE_PATH}.default_ttl: "1s" is too short; at least "5s"',
    ]


def test_mistakes_of_shape_and_of_sense_in_different_tables_are_all_reported() -> None:
    text = document(
        more_role='default_ttl = "soon"',
        rest=f"""
        [role."database/creds/b"]
        {ROLE}
        password_length = 8
        [[template]]
        destination = "relative"
        format = "url"
        roles = ["database/creds/app"]
        [[template]]
        destination = "/etc/secrets/b"
        format = "urls"
        [[template]]
        destination = "/etc/secrets/b"
        source = "/a"
        roles = ["database/creds/b", "database/creds/c"]
        [agent]
        stop_timeout = "10ms"
        """,
    )

    assert wrong(text) == [
        f'{ROLE_PATH}.default_ttl: the value is not a duration; write it like "5m" or "1h30m"',
        'template[1].format: must be one of "dotenv", "json", "pgpass", "pg_service", "url", "shell-export"; '
        'did you mean "url"?',
        'agent.stop_timeout: "10ms" is out of range; "1s" to "1h"',
        'template[0].destination: must be an absolute path without "." or "..", and without a "/" at its end',
        'template[2].roles[1]: is no configured role; there are: "database/creds/app", "database/creds/b"',
        'role."database/creds/b".password_length: 8 is out of range; 16 to 128',
    ]


@pytest.mark.parametrize("group", ["postgresql", "role", "template", "listener"])
def test_where_a_whole_group_of_tables_is_missing_nothing_that_refers_to_it_is_reported(group: str) -> None:
    tables = {
        "postgresql": f"[postgresql]\n{SERVER}",
        "role": f'[role."database/creds/app"]\n{ROLE}',
        "template": f"[[template]]\n{FILE}",
        "listener": '[listener.unix]\naddress = "/run/a"',
    }
    tables[group] = ""
    kind = "an array" if group == "template" else "a table"

    assert wrong(f"{group} = 3\n" + "\n".join(tables.values())) == [f"{group}: must be {kind}, not a whole number"]


def test_a_broken_server_does_not_make_its_roles_look_wrong() -> None:
    assert wrong(document(more_server='port = "x"')) == ["postgresql.port: must be a whole number, not a string"]


def test_a_mistake_on_an_array_in_place_of_the_servers_is_told_once() -> None:
    mistakes = wrong(f'[[postgresql]]\nhost = "${{NOPE}}"\n[role."database/creds/app"]\n{ROLE}')

    assert mistakes[1:] == ["postgresql: must be a table, not an array"]
