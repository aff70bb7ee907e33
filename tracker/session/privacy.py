"""Texts made fit for strangers: nothing that names the user, the machine, the project, or is a secret."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from tracker.records import Device, NotMeasured
from tracker.session.provenance import MASK, secrets_of

# A path made of a URL has but one slash after the scheme.
_URL: Final = re.compile(r"\b([a-z][a-z0-9+.-]*:/{1,2})(\S*@)?([^\s?]*)(\?\S*)?", re.IGNORECASE)
_UUID: Final = re.compile(r"\b((?:GPU|MIG)-[0-9a-f]{8})-[0-9a-f-]{4,}", re.IGNORECASE)
_SOMEBODYS_HOME: Final = re.compile(r"(/home/|/Users/|\\Users\\)[^/\\\s:;,'\"]+")
_PATH: Final = re.compile(r"\S*([/\\]|\.\w)\S*")  # or the name of a file
_IMPERSONAL: Final = frozenset({"root", "localhost", "user", "users", "home"})
_FEWEST_PARTS: Final = 3  # of an absolute path that is shown from here: /data/team; "/dev" stays "/dev" wherever one is


class Privacy:
    """Takes out of texts what is nobody else's business.

    The home folder becomes ~, and other paths are shown as seen from the current folder, whose parents are often named
    after projects. The user's, the machine's and the project's names become <user>, <host> and <project> in names of
    files, the only place where they are to be expected. URLs keep neither user, password nor query, and of a GPU's UUID
    the beginning is kept.

    Args:
        projects: names of projects.
        environ: for secrets that were given to the wrong setting.
        home, cwd: of the process; None: there is none.
        users, hosts: what user and machine are called.
    """

    def __init__(
        self,
        projects: Collection[str] = (),
        *,
        environ: Mapping[str, str] = os.environ,
        home: Path | None = None,
        cwd: Path | None = None,
        users: Collection[str] | None = None,
        hosts: Collection[str] | None = None,
    ) -> None:
        names = {
            "<user>": _user_names(environ) if users is None else users,
            "<host>": _host_names() if hosts is None else hosts,
            "<project>": projects,
        }
        patterns = [
            (re.compile(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"), stand_in)
            for stand_in, known in names.items()
            for name in sorted(known, key=len, reverse=True)
            if len(name) > 1 and name.lower() not in _IMPERSONAL
        ]
        # One of several words is no part of our own sentences, and its path is not seen as one.
        self._phrases = [(name, stand_in) for name, stand_in in patterns if " " in name.pattern]
        self._words = [pattern for pattern in patterns if pattern not in self._phrases]
        self._secrets = secrets_of(environ)
        self._folders = _folders(home, cwd)

    def text(self, text: str) -> str:
        """A text of ours, with what the user wrote in it."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        text = _URL.sub(_plain_url, text)
        for folder, seen in self._folders:
            text = folder.sub(seen, text)
        text = _SOMEBODYS_HOME.sub(r"\1<user>", text)
        text = _PATH.sub(lambda path: _without(self._words, path[0]), text)
        text = _without(self._phrases, text)
        return _UUID.sub(r"\1…", text)

    def place(self, db: str) -> str:
        """A database: of a server no more than its kind, as all the rest names hosts and people."""
        scheme, separator, _ = db.partition("://")
        return f"{scheme}://…" if separator else self.text(db)

    def device(self, device: Device) -> Device:
        return replace(
            device,
            key=self.text(device.key),
            name=self.text(device.name),
            attributes={name: self.text(value) for name, value in device.attributes.items()},
            notes=tuple(map(self.text, device.notes)),
        )

    def part(self, part: NotMeasured) -> NotMeasured:
        return NotMeasured(
            part.kind, self.text(part.name), self.text(part.reason), self.text(part.remedy), self.text(part.key)
        )


def _without(names: Collection[tuple[re.Pattern[str], str]], text: str) -> str:
    for name, stand_in in names:
        text = name.sub(stand_in, text)
    return text


def _plain_url(url: re.Match[str]) -> str:
    scheme, user, rest, query = url.groups()
    return f"{scheme}{f'{MASK}@' if user else ''}{rest}{f'?{MASK}' if query else ''}"


def _folders(home: Path | None, cwd: Path | None) -> list[tuple[re.Pattern[str], str]]:
    """Folders with what stands for them, the longest first."""
    seen: dict[str, str] = {}
    homes = {str(home), os.path.realpath(home)} if home is not None and home != Path(home.anchor) else set()
    if cwd is not None:
        for depth, folder in enumerate((cwd, *cwd.parents)):
            if str(folder) in homes or len(folder.parts) < _FEWEST_PARTS:
                break
            seen[str(folder)] = "/".join([".."] * depth) or "."
    seen |= dict.fromkeys(homes, "~")
    longest_first = sorted(seen, key=len, reverse=True)
    return [(re.compile(rf"(?<![\w.~/\\-]){re.escape(folder)}(?![\w.-])"), seen[folder]) for folder in longest_first]


def _user_names(environ: Mapping[str, str]) -> set[str]:
    names = {environ.get(name, "") for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    with suppress(ImportError, KeyError):  # Windows; a number without a name, as in many containers
        import pwd

        names.add(pwd.getpwuid(os.getuid()).pw_name)
    return names


def _host_names() -> set[str]:
    name = socket.gethostname()
    return {name, name.partition(".")[0]}
