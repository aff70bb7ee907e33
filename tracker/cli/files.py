"""Files that commands write: as a whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

from tracker.errors import StoreError

_Result = TypeVar("_Result")


def written(path: Path, write: Callable[[IO[Any]], _Result], *, is_binary: bool = False) -> _Result:
    """Write a file as a whole or not at all: an interruption leaves what was there before."""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            # newline="": csv writes its own ends of lines.
            text: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
            with os.fdopen(descriptor, "wb" if is_binary else "w", **({} if is_binary else text)) as file:
                result = write(file)
            umask = os.umask(0)
            os.umask(umask)
            Path(temporary).chmod(0o666 & ~umask)
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
    except OSError as exc:
        raise StoreError(f"{path}: {exc.strerror or exc}; nothing was written") from exc
    return result
