"""What must not stand in a configuration file: passwords, tokens, keys.

The file is mounted from ConfigMaps, printed in reviews and kept in version control, so a secret in it is refused, even
in a place where it would have no effect, and no message ever repeats it.
"""

import re

_WORDS = r"passw(?:or)?d|passphrase|pwd|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key"
_KEY = re.compile(_WORDS, re.IGNORECASE)
_VARIABLE = re.compile(rf"(?:{_WORDS})s?", re.IGNORECASE)
_VALUE = re.compile(rf"://\S{{0,512}}@|(?:{_WORDS})\s*=\s*\S|-----BEGIN ", re.IGNORECASE)

REMEDY = "secrets do not stand in this file; they come from password_file"


def secret_key(key: str) -> bool:
    """Whether something called `key` is likely to be a secret."""
    return bool(_KEY.search(key))


def secret_variable(name: str) -> bool:
    """Whether an environment variable holds a secret by its name: DB_PASSWORD does, SECRETHUB_URL does not."""
    words = name.split("_")
    return any(_VARIABLE.fullmatch("_".join(words[-n:])) for n in (1, 2)) or words[-1].upper().endswith("PASSWORD")


def gives_away(text: str) -> bool:
    """Whether `text` carries a credential: a URL with one, `password=…` as in a connection string, a private key."""
    return bool(_VALUE.search(text))
