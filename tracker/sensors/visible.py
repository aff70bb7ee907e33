"""Which GPUs are this run's: what CUDA would show the process, or what the user asked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tracker.settings import GpuChoice

_LEADING_INTEGER: Final = re.compile(r"[+-]?\d+")


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU as NVML lists it; text that NVML did not give is ""."""

    index: int
    uuid: str = ""
    name: str = ""
    pci_bus: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """The boards chosen, in CUDA's order.

    Attributes:
        warnings: why the choice may be wider or narrower than what was meant.
        reason: why there are none; "" where there are some.
    """

    boards: tuple[Board, ...] = ()
    warnings: tuple[str, ...] = ()
    reason: str = ""


def select_boards(boards: Sequence[Board], gpus: GpuChoice, environ: Mapping[str, str]) -> Selection:
    """The boards to measure.

    Args:
        boards: all of the machine, in NVML's order.
        gpus: "visible" follows CUDA_VISIBLE_DEVICES; integers in a list are the indices that nvidia-smi shows.
        environ: of the process whose work is measured.
    """
    if gpus == "none":
        return Selection(reason='left out by gpus="none"')
    if gpus == "all":
        return Selection(tuple(boards))
    if gpus == "visible":
        return _visible(boards, environ)
    return _listed(boards, gpus)


def _listed(boards: Sequence[Board], wanted: Sequence[int | str]) -> Selection:
    chosen: dict[int, Board] = {}
    missing: list[str] = []
    for entry in wanted:
        if isinstance(entry, str):
            found = _by_uuid(boards, entry)
        else:
            found = next((board for board in boards if board.index == entry), None)
        if found is None:
            missing.append(str(entry))
        else:
            chosen[found.index] = found
    warnings = (f"gpus: no GPU {', '.join(missing)} among the {len(boards)} here",) if missing else ()
    return Selection(tuple(chosen.values()), warnings, "" if chosen else f"none of gpus={list(wanted)} is here")


def _visible(boards: Sequence[Board], environ: Mapping[str, str]) -> Selection:
    """CUDA's own reading of CUDA_VISIBLE_DEVICES.

    The list ends at the first entry that names no device, and an entry that comes twice hides all. Its first entry
    decides whether it is a list of UUIDs or of integers.

    Source: CUDA C++ Programming Guide, "CUDA Environment Variables"; PyTorch PR 92315, which follows the driver.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return Selection(tuple(boards))
    entries = [entry.strip() for entry in value.split(",")]
    if any(entry.startswith("MIG-") for entry in entries):
        # NVML meters whole boards only. Which of them holds the slice is for the issue on MIG.
        return _all_because(boards, "CUDA_VISIBLE_DEVICES names MIG slices, which have no meter of their own")
    if entries[0].startswith("GPU-"):
        chosen = _until_invalid([_by_uuid(boards, entry) for entry in entries])
    else:
        in_order = sorted(boards, key=lambda board: board.pci_bus)  # stable: NVML's order where the bus is not known
        chosen = _until_invalid([_by_integer(in_order, entry) for entry in entries])
        if 0 < len(chosen) < len(boards) and not _is_pci_order(boards, environ):
            return _all_because(
                boards,
                f"CUDA_VISIBLE_DEVICES={value} counts the fastest board first, and NVML does not tell which of these "
                "models that is; CUDA_DEVICE_ORDER=PCI_BUS_ID or GPU UUIDs settle it",
            )
    return Selection(tuple(chosen), (), "" if chosen else f'CUDA_VISIBLE_DEVICES="{value}" shows none to this process')


def _is_pci_order(boards: Sequence[Board], environ: Mapping[str, str]) -> bool:
    return environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({board.name for board in boards}) == 1


def _all_because(boards: Sequence[Board], reason: str) -> Selection:
    return Selection(tuple(boards), (f"all {len(boards)} GPUs are measured: {reason}",))


def _until_invalid(found: Sequence[Board | None]) -> list[Board]:
    chosen: list[Board] = []
    for board in found:
        if board is None:
            break
        if board in chosen:
            return []
        chosen.append(board)
    return chosen


def _by_uuid(boards: Sequence[Board], prefix: str) -> Board | None:
    """The one board whose UUID begins so; a prefix of two names none."""
    if not prefix.startswith("GPU-"):
        return None
    found = [board for board in boards if board.uuid.startswith(prefix)]
    return found[0] if len(found) == 1 else None


def _by_integer(boards: Sequence[Board], entry: str) -> Board | None:
    leading = _LEADING_INTEGER.match(entry)  # the driver reads it so: "1x" is 1, "NoDevFiles" is nothing
    position = int(leading.group()) if leading else -1
    return boards[position] if 0 <= position < len(boards) else None
