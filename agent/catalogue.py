"""Every metric there is, in one place: `docs/metrics.md` and the shipped alerts name these, and tests hold them to it.

A gauge that stands for yes or no is 1 or 0. `outcome` is a small closed set, counted from zero, so that ratios and
increases are right from the first event on; why something failed is counted per upstream.
"""

from agent.meters import Kind, Metric

_C, _G, _H = Kind.COUNTER, Kind.GAUGE, Kind.HISTOGRAM


def _m(name: str, kind: Kind, text: str, *labels: str) -> Metric:
    return Metric(name=f"leasehold_{name}", kind=kind, help=text, labels=labels)


# -- the agent --------------------------------------------------------------------------------------------------------
BUILD = _m("build_info", _G, "Always 1; the version of the agent and of its Python.", "version", "python")
STARTED = _m("started", _G, "Whether all required roles were published and their files written, once.")
READY = _m("ready", _G, "Whether every required role holds a usable credential.")
LIVE = _m("live", _G, "Whether the agent turns and every Renewer acts when it is due.")
DEGRADED = _m("degraded", _G, "Whether something fails, although credentials may still be served.")
CLOCK_JUMPS = _m("clock_jumps_total", _C, "How often the dial ran ahead of the timers: suspend, or a stuck agent.")
LOOP_LAG = _m("loop_lag_seconds", _G, "The longest delay of a one-second timer in the last one to two minutes.")
THREADS = _m("threads", _G, "Threads of the process.")
# -- roles ------------------------------------------------------------------------------------------------------------
PHASE = _m("role_phase", _G, "Whether the role is in this phase.", "role", "phase")
FAILURES = _m("role_failures", _G, "Failed attempts in a row; 0 while all is well.", "role")
OVERDUE = _m("renewer_overdue_seconds", _G, "How long the role's Renewer has slept past its own next step.", "role")
REMAINING = _m("lease_remaining_seconds", _G, "Seconds until the published credential ends.", "role")
TTL = _m("lease_ttl_seconds", _G, "Length of the published credential's newest grant.", "role")
OVERLAP = _m("lease_overlap_seconds", _G, "Its replacement is to be published this long before it ends.", "role")
GENERATION = _m("generation", _G, "Generation of the published credential, Unix time in ms.", "role")
VERIFIED = _m("lease_verified", _G, "Whether a login with the published credential succeeded.", "role")
LEASES = _m("leases", _G, "Leases that the agent holds at an upstream.", "role", "state")
UNREVOKED = _m("leases_unrevoked", _G, "Leases that have ended or failed to be revoked, and are still there.", "role")
EXPIRED = _m("leases_expired_total", _C, "Credentials that ended while served, with nothing to replace them.", "role")
REPLACEMENTS = _m("replacements_total", _C, "Credentials published after the role's first.", "role")
# -- upstreams --------------------------------------------------------------------------------------------------------
ISSUES = _m("issues_total", _C, "Leases asked for.", "role", "upstream", "outcome")
LOOKS = _m("looks_total", _C, "Looks at secrets that nobody leases.", "role", "upstream", "outcome")
RENEWALS = _m("renewals_total", _C, "Renewals asked for.", "role", "upstream", "outcome")
VERIFICATIONS = _m("verifications_total", _C, "Logins tried with a credential.", "role", "upstream", "outcome")
REVOCATIONS = _m("revocations_total", _C, "Revocations asked for.", "role", "upstream", "outcome")
ERRORS = _m("upstream_errors_total", _C, "Calls that failed, by the kind of error.", "upstream", "operation", "error")
DURATION = _m("upstream_call_duration_seconds", _H, "How long calls took.", "upstream", "operation")
CIRCUIT_OPEN = _m("circuit_open", _G, "Whether the upstream cannot be reached, so that calls wait.", "upstream")
SWEEPS = _m("sweeps_total", _C, "Searches of a journal for leases that have expired.", "upstream", "outcome")
REAPED = _m("leases_reaped_total", _C, "Expired leases, of any agent, that sweeps have ended.", "upstream")
UNENDED = _m("leases_unended", _G, "Expired leases, of any agent, that the newest sweep could not end.", "upstream")
STRANGERS = _m("strangers", _G, "Members of the marker group without a live row in the journal.", "upstream")
JOURNAL = _m("journal_leases", _G, "Leases of any agent, as the newest sweep found them.", "upstream", "role", "state")
CERTIFICATE = _m("certificate_expiry_timestamp_seconds", _G, "When it ends, Unix time.", "upstream", "certificate")
SERVING = _m("upstream_serving", _G, "Whether this of the upstream's addresses answered last.", "upstream", "address")
# -- logins at Vault and OpenBao --------------------------------------------------------------------------------------
LOGIN_PHASE = _m("login_phase", _G, "Whether our login at the upstream is in this phase.", "upstream", "phase")
LOGIN_FAILURES = _m("login_failures", _G, "Failed attempts in a row; 0 while all is well.", "upstream")
LOGIN_REMAINING = _m("login_remaining_seconds", _G, "Seconds until our login ends, and its leases.", "upstream")
LOGIN_OVERLAP = _m("login_overlap_seconds", _G, "The next login is to be there this long before it ends.", "upstream")
# -- files ------------------------------------------------------------------------------------------------------------
RENDERS = _m("renders_total", _C, "Files rendered and, where they changed, written.", "path", "outcome")
FILE_FAILED = _m("file_failed", _G, "Whether the file could not be rendered, written or removed.", "path")
# -- the listeners ----------------------------------------------------------------------------------------------------
READS = _m("reads_total", _C, "Reads answered.", "role", "outcome")
DENIALS = _m("denials_total", _C, "Requests of callers that no list admits; operators: no role.", "role", "operation")
CONNECTIONS = _m("connections", _G, "Open connections.", "listener")
REFUSED = _m("requests_refused_total", _C, "Requests and connections that break a limit.", "listener", "status")
FAULTS = _m("faults_total", _C, "Requests that a bug of ours left without an answer.", "listener")
# -- the audit log ----------------------------------------------------------------------------------------------------
AUDIT_LINES = _m("audit_lines_total", _C, "Lines for the audit log.", "outcome")
AUDIT_FAILING = _m("audit_failing", _G, "Whether the audit log cannot be written.")

ALL: tuple[Metric, ...] = tuple(value for value in vars().values() if isinstance(value, Metric))
