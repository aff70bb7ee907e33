"""One sampler per node: the processes of a run that hold no lock wait for the one that does to let go of it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Final

from tracker.machine import OwnDescriptor, process_start

_LOCK_MODE: Final = 0o600
_FOLDER_MODE: Final = 0o700


class PlaceError(OSError):
    """There is no folder where a lock can be put without trusting others."""


def private_folder(*, is_made: bool = True) -> Path:
    """The folder on this node that all processes of the user share and nobody else can write to.

    Args:
        is_made: it is made if missing; else it is told where it would be.

    Raises:
        PlaceError: what is at its path is a link, is not the user's, or is open to others; or this is Windows.
    """
    if not hasattr(os, "getuid"):  # Windows
        raise PlaceError(errno.ENOSYS, "this system has no record locks")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    uid = os.getuid()
    places = [Path(tempfile.gettempdir()) / f"gpu-energy-tracker-{uid}"]
    if runtime and Path(runtime).is_absolute():
        places.insert(0, Path(runtime) / "gpu-energy-tracker")
    trouble = ""
    for place in places:
        try:
            if is_made:
                with contextlib.suppress(FileExistsError):
                    place.mkdir(mode=_FOLDER_MODE)
            elif not os.path.lexists(place) and os.access(place.parent, os.W_OK):
                return place
            found = place.lstat()
        except OSError as exc:
            trouble = f"{place}: {exc.strerror}"
            continue
        if stat.S_ISDIR(found.st_mode) and found.st_uid == uid and not stat.S_IMODE(found.st_mode) & 0o077:
            return place
        trouble = f"{place} is a link, is not ours or is open to others: remove it"
    raise PlaceError(errno.EACCES, trouble)


class RecordLock:
    """A right that at most one process on this node has.

    A POSIX record lock: it goes with the process that took it, however that ends, and its forked children do not have
    it (flock's would live on in DataLoader workers). It goes, too, when the process closes any descriptor of the file,
    so the file is opened once.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: OwnDescriptor | None = None
        self._pid = os.getpid()
        self.is_ours = False

    def take(self) -> bool:
        """Try to get it, without waiting; true where it is ours.

        Raises:
            OSError: the file cannot be opened or locked for another reason than that somebody has it.
        """
        import fcntl  # none on Windows

        if self.is_ours or os.getpid() != self._pid:
            return self.is_ours
        if self._file is None or not self._file.is_ours:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = OwnDescriptor(os.open(self._path, flags, _LOCK_MODE))
        try:
            fcntl.lockf(self._file.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            return False
        self.is_ours = True
        return True

    def leave(self) -> None:
        """Let go of it. The file stays: removing it would let two processes lock two files of one name."""
        file, self._file, self.is_ours = self._file, None, False
        if file is not None and os.getpid() == self._pid:
            file.close()


class Seat:
    """The right to sample for a run on this node, which at most one process has."""

    def __init__(self, folder: Path, run_id: str) -> None:
        digest = hashlib.sha256(run_id.encode("utf-8", "backslashreplace")).hexdigest()
        self._lock_path = folder / f"{digest[:32]}.lock"
        self._lock = RecordLock(self._lock_path)
        self._view_path = folder / f"{digest[:32]}.{os.getpid()}-{process_start(os.getpid()) or 0}.view"
        self._pid = os.getpid()

    @property
    def is_ours(self) -> bool:
        return self._lock.is_ours

    def take(self) -> bool:
        """As RecordLock.take."""
        return self._lock.take()

    def announce(self, view: str) -> None:
        """Tell the one who samples what this process sees of the node's devices.

        Raises:
            OSError: it cannot be written.
        """
        being_written = self._view_path.with_suffix(".new")
        being_written.touch(mode=_LOCK_MODE)
        being_written.write_text(view, encoding="utf-8")
        being_written.replace(self._view_path)

    def views(self) -> list[str]:
        """What the living processes of the run on this node have announced, each once."""
        views = set()
        for path in self._lock_path.parent.glob(f"{self._lock_path.stem}.*.view"):
            pid, _, start = path.name.split(".")[1].partition("-")
            if str(process_start(int(pid)) or 0) != start:
                path.unlink(missing_ok=True)
                continue
            with contextlib.suppress(OSError):  # it has just left
                views.add(path.read_text(encoding="utf-8"))
        return sorted(views)

    def leave(self) -> None:
        """Let go of it, and tell nobody any more what this process sees."""
        if os.getpid() == self._pid:
            self._lock.leave()
            self._view_path.unlink(missing_ok=True)
