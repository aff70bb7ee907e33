"""Which GPUs are this run's: what CUDA would show the process, or what the user asked for. Pure.

NVIDIA_VISIBLE_DEVICES is not read: it tells a container's runtime what to let in, and NVML in there lists no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tracker.settings import GpuChoice

_LEADING_INTEGER: Final = re.compile(r"[+-]?[0-9]+")
_SLICE_BY_NUMBERS: Final = re.compile(r"MIG-(GPU-[^/]+)/([0-9]+)/([0-9]+)")  # of drivers before R470; taken by all
_UUID_SHOWN: Final = 12  # "GPU-1a2b3c4d": enough to name a board of any machine


@dataclass(frozen=True, slots=True)
class Slice:
    """A MIG device (a compute instance) as NVML lists it on its board; None and "" are what NVML did not give."""

    uuid: str = ""
    gpu_instance: int | None = None
    compute_instance: int | None = None
    profile: str = ""  # "1g.5gb"
    compute_slices: int | None = None


@dataclass(frozen=True, slots=True)
class Board:
    """One GPU as NVML lists it; text that NVML did not give is "".

    Attributes:
        compute_slices: how many MIG can cut it into; None: it is not in MIG mode.
        slices: its MIG devices, in NVML's order.
    """

    index: int
    uuid: str = ""
    name: str = ""
    pci_bus: str = ""
    compute_slices: int | None = None
    slices: tuple[Slice, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """The boards chosen, in CUDA's order.

    Attributes:
        slices: of boards that are not the run's as a whole: their MIG devices that are, by the board's index.
        warnings: why the choice may be wider or narrower than what was meant.
        reason: why there are none; "" where there are some.
    """

    boards: tuple[Board, ...] = ()
    slices: Mapping[int, tuple[Slice, ...]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    reason: str = ""


def select_boards(
    boards: Sequence[Board],
    gpus: GpuChoice,
    environ: Mapping[str, str],
    shown: Sequence[str] | None = None,
) -> Selection:
    """The boards to measure.

    Args:
        boards: all of the machine, in NVML's order.
        gpus: "visible" follows CUDA; integers in a list are the indices that nvidia-smi shows.
        environ: of the process whose work is measured.
        shown: the UUIDs, without "GPU-" or "MIG-", that CUDA itself shows this process; None: it has not been
            initialised, so that the environment says what it will show.
    """
    if gpus in ("none", ()):
        return Selection(reason=f'left out by gpus="{gpus or ""}"')
    if gpus == "all":
        return Selection(tuple(boards))
    if gpus == "visible":
        return (None if shown is None else _shown(boards, shown)) or _visible(boards, environ)
    return _listed(boards, gpus)


def _listed(boards: Sequence[Board], wanted: Sequence[int | str]) -> Selection:
    chosen: dict[int, Board] = {}
    slices: dict[int, tuple[Slice, ...]] = {}
    whole: set[int] = set()
    missing: list[str] = []
    for entry in wanted:
        if isinstance(entry, str) and entry.startswith("MIG-"):
            pair = _by_slice(boards, entry)
            board = pair and pair[0]
            if pair and pair[1] not in slices.get(pair[0].index, ()):
                slices[pair[0].index] = (*slices.get(pair[0].index, ()), pair[1])
        else:
            board = _by_uuid(boards, entry) if isinstance(entry, str) else _by_index(boards, entry)
            if board is not None:
                whole.add(board.index)
        if board is None:
            missing.append(_why_not(boards, str(entry)))
        else:
            chosen[board.index] = board
    warnings = (f"gpus: {', '.join(missing)}; {_here(boards)}",) if missing else ()
    return Selection(
        tuple(chosen.values()),
        {index: some for index, some in slices.items() if index not in whole},
        warnings,
        "" if chosen else f'none of gpus="{",".join(map(str, wanted))}" is here',
    )


def _why_not(boards: Sequence[Board], entry: str) -> str:
    uuids = [board.uuid for board in boards] + [one.uuid for board in boards for one in board.slices]
    begun = sum(uuid.startswith(entry) for uuid in uuids)
    return f"{entry} begins the UUIDs of {begun}" if begun > 1 else f"no GPU is {entry}"


def _here(boards: Sequence[Board]) -> str:
    names = []
    for board in boards:
        names.append(f"{board.index} ({board.uuid[:_UUID_SHOWN]})")
        names += [one.uuid for one in board.slices]
    return f"here are {', '.join(names)}"


def _shown(boards: Sequence[Board], uuids: Sequence[str]) -> Selection | None:
    """The boards that CUDA itself names; None where NVML does not know one of them."""
    chosen: dict[int, Board] = {}
    slices: dict[int, tuple[Slice, ...]] = {}
    for uuid in uuids:
        for board in boards:
            some = tuple(one for one in board.slices if one.uuid == f"MIG-{uuid}")
            if some or board.uuid == f"GPU-{uuid}":
                chosen[board.index] = board
                if some or board.slices:  # a driver before R470 names the board where it shows its first slice
                    slices[board.index] = slices.get(board.index, ()) + (some or board.slices[:1])
                break
        else:
            return None
    return Selection(tuple(chosen.values()), slices) if chosen else None


def _visible(boards: Sequence[Board], environ: Mapping[str, str]) -> Selection:
    """CUDA's own reading of CUDA_VISIBLE_DEVICES.

    The first entry decides whether it is a list of MIG devices, of UUIDs or of integers. The list ends at the first
    entry that names no device, and an entry that comes twice hides all. Spaces around a UUID, of which the sources
    say nothing, are taken to be harmless: a GPU too many is named as unused, one too few would be missed unseen.

    Source: CUDA Programming Guide, "CUDA Environment Variables"; PyTorch PR 92315, which follows the driver.
    """
    value = environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return _enumerated(_in_pci_order(boards))
    entries = [entry.strip() for entry in value.split(",")]
    hidden = Selection(reason=f'CUDA_VISIBLE_DEVICES="{value}" shows none to this process')
    if entries[0].startswith("MIG-"):
        return _visible_slice(boards, entries[0]) or hidden
    if entries[0].startswith("GPU-"):
        chosen = _until_invalid(_by_uuid(boards, entry) for entry in entries)
    else:
        in_order = _in_pci_order(boards)
        chosen = _until_invalid(_by_position(in_order, entry) for entry in entries)
        if 0 < len(chosen) < len(boards) and not _counts_in_pci_order(boards, environ):
            return _all_because(
                boards,
                f"CUDA_VISIBLE_DEVICES={value} counts the fastest board first, and NVML does not tell which of these "
                "models that is; CUDA_DEVICE_ORDER=PCI_BUS_ID or GPU UUIDs settle it",
            )
    return _enumerated(chosen) if chosen else hidden


def _enumerated(boards: Sequence[Board]) -> Selection:
    """What CUDA shows of the boards left to it: all, or where any is cut by MIG the first slice alone.

    Source: MIG User Guide, "CUDA Device Enumeration": a process sees one compute instance at most, and no other GPU
    beside it.
    """
    for board in boards:
        if board.slices:
            return Selection((board,), {board.index: board.slices[:1]})
    return Selection(tuple(boards))


def _visible_slice(boards: Sequence[Board], entry: str) -> Selection | None:
    """The board of the MIG device that a list begins with; further entries name nothing that CUDA would show."""
    found = _by_slice(boards, entry)
    if found is not None:
        return Selection((found[0],), {found[0].index: (found[1],)})
    if any(board.slices for board in boards):
        return None
    in_mig_mode = [board for board in boards if board.compute_slices is not None]
    return _all_because(in_mig_mode or boards, "CUDA_VISIBLE_DEVICES names a MIG device, and NVML lists none here")


def _in_pci_order(boards: Sequence[Board]) -> list[Board]:
    if any(not board.pci_bus for board in boards):
        return list(boards)  # NVML's own order is that of the bus too
    return sorted(boards, key=lambda board: board.pci_bus.lower())


def _counts_in_pci_order(boards: Sequence[Board], environ: Mapping[str, str]) -> bool:
    return environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({board.name for board in boards}) == 1


def _all_because(boards: Sequence[Board], reason: str) -> Selection:
    return Selection(tuple(boards), warnings=(f"all {len(boards)} GPUs are measured: {reason}",))


def _until_invalid(found: Iterable[Board | None]) -> list[Board]:
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


def _by_slice(boards: Sequence[Board], entry: str) -> tuple[Board, Slice] | None:
    """The one MIG device of that UUID, of that beginning of one, or of that board and those instances."""
    numbers = _SLICE_BY_NUMBERS.fullmatch(entry)
    if numbers:
        parent, instances = _by_uuid(boards, numbers[1]), (int(numbers[2]), int(numbers[3]))
        among = [] if parent is None else [(parent, one) for one in parent.slices]
        found = [pair for pair in among if (pair[1].gpu_instance, pair[1].compute_instance) == instances]
    else:
        found = [(board, one) for board in boards for one in board.slices if one.uuid.startswith(entry)]
    return found[0] if len(found) == 1 else None


def _by_index(boards: Sequence[Board], index: int) -> Board | None:
    return next((board for board in boards if board.index == index), None)


def _by_position(boards: Sequence[Board], entry: str) -> Board | None:
    leading = _LEADING_INTEGER.match(entry)  # the driver reads it so: "1x" is 1, "NoDevFiles" is nothing
    position = int(leading.group()) if leading else -1
    return boards[position] if 0 <= position < len(boards) else None
