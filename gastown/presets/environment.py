"""The environment that agents, set-up and gates of a rig get: the user's at `rig add`, without secrets."""

import re
from collections.abc import Mapping

# Names that hold secrets by convention. What an agent needs of these comes by its preset's login files.
SECRET = re.compile(
    r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|COOKIE|AUTH|(API|ACCESS|SIGNING|ENCRYPTION)_?KEY|_KEY$|_PAT$"
)
# Of the session in which `rig add` was typed, not of the work.
SESSION = re.compile(
    r"_|PWD|OLDPWD|SHLVL|TERM.*|COLUMNS|LINES|TMUX.*|STY|DISPLAY|WAYLAND.*|XDG_(SESSION|RUNTIME|VTNR|SEAT).*|DBUS.*|SSH_.*"
    r"|GIT_.*|TMPDIR|HOME|USER|LOGNAME|MAIL|SUDO_.*|BASH_FUNC.*|PS\d|GPG_.*|INVOCATION_ID|JOURNAL_STREAM"
)
# A URL with a password in it, or with a user where that is often a token.
LOGIN = re.compile(r"https?://[^/@\s]+@|://[^/@\s]*:[^/@\s]+@", re.IGNORECASE)

PLACE = re.compile(r"(^|:)(/(?!/)|~)")  # an absolute path, or one in a list like PATH; no URL
LOCALE = re.compile(r"LANG|LANGUAGE|LC_\w+|TZ|SHELL")


def capture(environment: Mapping[str, str]) -> dict[str, str]:
    """Of this environment, what agents may have."""
    return {name: value for name, value in sorted(environment.items()) if _may_pass(name, value)}


def portable(environment: Mapping[str, str]) -> dict[str, str]:
    """Of what was captured on one machine, what means the same in a container: no paths, and no locale."""
    return {
        name: value for name, value in environment.items() if not PLACE.search(value) and not LOCALE.fullmatch(name)
    }


def _may_pass(name: str, value: str) -> bool:
    if name.startswith("GASTOWN_") or SESSION.fullmatch(name) or SECRET.search(name.upper()):
        return False
    return "\x00" not in value and not LOGIN.search(value)
