"""CUDA's reading of CUDA_VISIBLE_DEVICES, written down slowly and on its own: character by character, no tracker code.

Sources: CUDA Programming Guide, "CUDA Environment Variables"; MIG User Guide, "CUDA Device Enumeration"; the tests of
PyTorch PR 92315, which follow the driver.
"""

from collections.abc import Sequence

Gpu = tuple[str, Sequence[tuple[str, int, int]]]  # UUID; of its MIG devices UUID, GPU instance and compute instance
Shown = list[tuple[int, int | None]]  # position of the board; of its MIG device, None: the whole board


def shown(value: str | None, gpus: Sequence[Gpu]) -> Shown:
    """What a process sees of boards in PCI order."""
    if value is None:
        return with_mig(list(range(len(gpus))), gpus)
    entries = [""]
    for character in value:
        if character == ",":
            entries.append("")
        else:
            entries[-1] += character
    entries = [entry.strip() for entry in entries]
    if entries[0][:4] == "MIG-":
        named = [
            (i, j)
            for i, (uuid, devices) in enumerate(gpus)
            for j, device in enumerate(devices)
            if device[0][: len(entries[0])] == entries[0] or is_by_numbers(entries[0], uuid, device, gpus)
        ]
        return named if len(named) == 1 else []
    boards: list[int] = []
    for entry in entries:
        board = by_prefix(entry, gpus) if entries[0][:4] == "GPU-" else leading_number(entry)
        if board is None or board >= len(gpus):
            break
        if board in boards:
            return []
        boards.append(board)
    return with_mig(boards, gpus)


def with_mig(boards: list[int], gpus: Sequence[Gpu]) -> Shown:
    for board in boards:
        if len(gpus[board][1]) > 0:
            return [(board, 0)]
    return [(board, None) for board in boards]


def by_prefix(entry: str, gpus: Sequence[Gpu]) -> int | None:
    if entry[:4] != "GPU-":
        return None
    found = [i for i, (uuid, _) in enumerate(gpus) if uuid[: len(entry)] == entry]
    return found[0] if len(found) == 1 else None


def is_by_numbers(entry: str, uuid: str, device: tuple[str, int, int], gpus: Sequence[Gpu]) -> bool:
    parts = entry[4:].split("/")
    if len(parts) != 3 or by_prefix(parts[0], gpus) is None or gpus[by_prefix(parts[0], gpus) or 0][0] != uuid:
        return False
    return [str(device[1]), str(device[2])] == parts[1:]


def leading_number(entry: str) -> int | None:
    sign, number, digits = 1, 0, 0
    for place, character in enumerate(entry):
        if place == 0 and character in "+-":
            sign = -1 if character == "-" else 1
        elif character in "0123456789":
            number = 10 * number + "0123456789".index(character)
            digits += 1
        else:
            break
    return sign * number if digits and sign * number >= 0 else None
