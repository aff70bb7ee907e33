"""What is known of the file system that a database is on: whether machines share it, and whether its locks hold."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

MOUNT_TABLE: Final = Path("/proc/self/mountinfo")

# That several machines may have mounted at once, and none can share memory by it, which a WAL needs.
_NETWORK_TYPES: Final = re.compile(
    r"nfs4?|lustre|gpfs|beegfs\w*|cifs|smb3?|smbfs|ceph|9p|v9fs|afs|auristorfs|coda|pvfs2|orangefs|wekafs|panfs|cvfs"
    r"|gfs2?|ocfs2|virtiofs|vboxsf|prl_fs|vmhgfs|afpfs|webdav|davfs|fuse(\.\S+)?"
)
# Programs that show a folder of this machine's own disk in another way.
_LOCAL_FUSE: Final = frozenset(
    f"fuse.{name}"
    for name in (
        *("bindfs", "encfs", "fuse-overlayfs", "gocryptfs", "cryfs", "lxcfs", "mergerfs", "ntfs-3g", "overlayfs"),
        *("portal", "securefs", "snapfuse", "squashfuse", "unionfs", "unionfs-fuse"),
    )
)
# Types whose byte-range locks are the server's, and the options that make them this machine's own again.
# nfs(5): nolock, local_lock; mount.lustre(8): flock and localflock (with neither, locks are refused); mount.cifs(8).
_SHARED_LOCKS: Final = {
    **dict.fromkeys(("nfs", "nfs4"), re.compile(r"nolock|local_lock=(all|posix)")),
    "lustre": re.compile(r"localflock|noflock"),
    **dict.fromkeys(("cifs", "smb3"), re.compile(r"nobrl|nolock|cache=loose")),
    **dict.fromkeys(("gpfs", "ceph", "gfs2", "ocfs2", "orangefs"), re.compile(r"localflocks|nolock")),
}
_REMOTE_DRIVE: Final = 4  # GetDriveTypeW: DRIVE_REMOTE


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Attributes:
    network: its type where several machines may have it mounted; "": none, or that is not known.
    has_shared_locks: a lock taken on one machine holds on the others too.
    """

    network: str
    has_shared_locks: bool


def file_system_of(path: Path, mount_table: Path | None = None) -> FileSystem:
    """The file system that a path is on, or would be.

    Source: proc_pid_mountinfo(5), fields 5, 6, 9 and 11; the types: knowledge, ecosystem 6. Elsewhere than on Linux a
    share is known by its address or drive on Windows, and by its mount's type where the system tells it.

    Args:
        path: absolute, without symbolic links.
        mount_table: None: this process's own.
    """
    if sys.platform == "win32":
        return FileSystem("share" if _is_share(path) else "", False)
    try:
        lines = (mount_table or MOUNT_TABLE).read_text(errors="surrogateescape").splitlines()
    except OSError:
        mounts = _told_by_psutil() if sys.platform != "linux" else []
    else:
        mounts = [mount for line in lines if (mount := _mount(line)) is not None]
    best, kind, options = "", "", ""
    text = str(path)
    for place, its_kind, its_options in mounts:
        is_above = text == place or text.startswith(place.rstrip("/") + "/")
        if is_above and len(place) >= len(best):  # of two on one place the later one covers the other
            best, kind, options = place, its_kind, its_options
    if not _NETWORK_TYPES.fullmatch(kind) or kind in _LOCAL_FUSE:
        return FileSystem("", True)
    are_own = _SHARED_LOCKS.get(kind)
    return FileSystem(kind, are_own is not None and not any(map(are_own.fullmatch, options.split(","))))


def _mount(line: str) -> tuple[str, str, str] | None:
    """Place, type and options of a line of the mount table."""
    fields, _, rest = line.partition(" - ")
    of_place, of_type = fields.split(" "), rest.split(" ")
    if len(of_place) < 6 or len(of_type) < 1:
        return None
    place = re.sub(r"\\([0-7]{3})", lambda escape: chr(int(escape[1], 8)), of_place[4])  # space, tab, newline, \
    return place, of_type[0], ",".join((of_place[5], *of_type[2:]))


def _told_by_psutil() -> list[tuple[str, str, str]]:
    try:
        import psutil

        return [(part.mountpoint, part.fstype, part.opts) for part in psutil.disk_partitions(all=True)]
    except (ImportError, OSError, RuntimeError):  # then it is not known
        return []


def _is_share(path: Path) -> bool:
    if str(path).startswith(("\\\\", "//")):
        return True
    try:
        import ctypes

        windll = getattr(ctypes, "windll", None)
        return windll is not None and windll.kernel32.GetDriveTypeW(f"{path.drive}{os.sep}") == _REMOTE_DRIVE
    except (ImportError, OSError, AttributeError):
        return False
