"""Whether processes of the run use a GPU: NVML's process lists against the tree of processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

# include/linux/proc_ns.h, PROC_PID_INIT_INO: the namespace whose numbers the driver gives.
_HOST_NAMESPACE: Final = f"pid:[{0xEFFFFFFC}]"
_DEEPEST: Final = 1_000  # parents of a process; the tree changes while it is read

# _v3 by name: the plain ones raise an error of their own where the driver is too old for them.
_COMPUTE: Final = "nvmlDeviceGetComputeRunningProcesses_v3"
_MPS: Final = "nvmlDeviceGetMPSComputeRunningProcesses_v3"
_GRAPHICS: Final = "nvmlDeviceGetGraphicsRunningProcesses_v3"
_MPS_SERVER: Final = "nvidia-cuda-mps"  # "nvidia-cuda-mps-server" as far as the kernel keeps a name

Ask = Callable[..., Any]  # (function of NVML, its arguments): the answer, texts as str; None where it fails


class ProcessTree:
    """One process and its descendants.

    Args:
        pid: of the process.
        proc: procfs.
    """

    def __init__(self, pid: int, proc: Path = Path("/proc")) -> None:
        self._root = pid
        self._proc = proc

    def has_host_numbers(self) -> bool:
        """Whether pids here are those that the driver gives: outside of a container, or in one with the host's."""
        try:
            return str((self._proc / "self/ns/pid").readlink()) == _HOST_NAMESPACE
        except OSError:
            return False

    def has(self, pid: int) -> bool:
        """Whether the process is the root or descends from it, as far as procfs shows it."""
        for _ in range(_DEEPEST):
            if pid == self._root:
                return True
            parent = self._parent(pid)
            if parent is None:
                return False
            pid = parent
        return False

    def name(self, pid: int) -> str:
        """As the kernel keeps it, 15 characters at most; "" where it is not known."""
        try:
            return (self._proc / str(pid) / "comm").read_text(errors="replace").rstrip("\n")
        except OSError:
            return ""

    def _parent(self, pid: int) -> int | None:
        try:
            status = (self._proc / str(pid) / "status").read_bytes()
        except OSError:
            return None
        numbers = dict(line.split(b":", 1) for line in status.splitlines() if line.startswith((b"Tgid:", b"PPid:")))
        leader, parent = int(numbers.get(b"Tgid", pid)), int(numbers.get(b"PPid", 0))
        return leader if leader != pid else parent or None  # a thread's number leads to its process


class GpuUsers:
    """Looks for processes of a tree in the lists of GPUs."""

    def __init__(self, tree: ProcessTree) -> None:
        self._tree = tree
        self._users: dict[str, int] = {}  # a process of the tree that was seen, by the GPU's key

    def look(self, ask: Ask, key: str, handles: Sequence[Any]) -> bool | None:
        """Whether a process of the tree uses the GPU now; None: it cannot be told.

        A process that has been seen there is not looked for again while it lives: lists cost milliseconds, and
        contexts last as long as their process.

        Args:
            ask: queries NVML.
            key: of the GPU.
            handles: of the board, or of its MIG devices where those alone are the run's.
        """
        if not self._tree.has_host_numbers():
            return None
        if key in self._users and self._tree.has(self._users[key]):
            return True
        is_told = bool(handles)
        for handle in handles:
            compute, clients = ask(_COMPUTE, handle), ask(_MPS, handle)
            pids = [entry.pid for entry in (*(compute or ()), *(clients or ()))]
            user = self._first_of_tree(pids) or self._first_of_tree(
                [entry.pid for entry in ask(_GRAPHICS, handle) or ()]
            )
            if user:
                self._users[key] = user
                return True
            # A server works for clients, which may be ours: without their list it hides them.
            is_hidden = clients is None and any(self._tree.name(pid) == _MPS_SERVER for pid in pids)
            is_told = is_told and compute is not None and not is_hidden
        return False if is_told else None

    def _first_of_tree(self, pids: Sequence[int]) -> int | None:
        return next((pid for pid in pids if self._tree.has(pid)), None)
