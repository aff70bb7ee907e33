"""Whose files are taken for the user's own, and whose are not."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def is_planted(path: Path) -> bool:
    """Whether another user has put this, a link or a file, into a folder where everybody may put things, such as /tmp.

    The kernel has the same rule for following links (sysctl fs.protected_symlinks): what the folder's owner has put
    there is trusted too. Elsewhere who may write a folder is trusted with what is in it.

    Raises:
        OSError: there is nothing, or it may not be looked at.
    """
    if not hasattr(os, "geteuid"):  # Windows, where every user has a temporary folder
        return False
    folder, owner = path.parent.stat(), path.lstat().st_uid
    everybody_may = stat.S_ISVTX | stat.S_IWOTH
    return folder.st_mode & everybody_may == everybody_may and owner not in (os.geteuid(), folder.st_uid)
