"""What must not stand in a configuration file: passwords, tokens, keys.

The file is mounted from ConfigMaps, printed in reviews and kept in version control, so a secret in it is refused, even
in a place where it would have no effect, and no message ever repeats it.
"""

import re

_WORDS = r"passw(?:or)?d|passphrase|pwd|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key"
_KEY = re.compile(_WORDS, re.IGNORECASE)
_ABOUT = re.compile(
    r"_(?:file|path|file_path|type|format|length|bits|ttl|interval|period|after_reading)$", re.IGNORECASE
)
_VARIABLE = re.compile(rf"(?:{_WORDS})s?", re.IGNORECASE)
_VALUE = re.compile(rf"://\S{{0,512}}@|(?:{_WORDS})\s*=\s*\S|-----BEGIN ", re.IGNORECASE)
_TOKEN = re.compile(
    r"\bhv[sbr]\.[A-Za-z0-9_-]{24}"  # Vault's
    r"|(?<![\w.-])[sb]\.[A-Za-z0-9]{24,}(?![\w.-])"  # OpenBao's, and Vault's of old
    r"|(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,}\.eyJ"  # a JWT: a workload's, say
)

REMEDY = "secrets do not stand in this file; it names the files they are in, such as password_file"


def secret_key(key: str) -> bool:
    """Whether something called `key` is likely to be a secret; a `token_path` or a `password_length` is none."""
    return bool(_KEY.search(key)) and not _ABOUT.search(key)


def secret_variable(name: str) -> bool:
    """Whether an environment variable holds a secret by its name: DB_PASSWORD does, SECRETHUB_URL does not."""
    words = name.split("_")
    return any(_VARIABLE.fullmatch("_".join(words[-n:])) for n in (1, 2)) or words[-1].upper().endswith("PASSWORD")


def gives_away(text: str) -> bool:
    """Whether `text` carries a credential: a URL with one, `password=…` as in a connection string, a key, a token."""
    return bool(_VALUE.search(text) or _TOKEN.search(text))
