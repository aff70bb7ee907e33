"""Which GPUs are this run's."""

from dataclasses import replace

import pytest

from tracker.sensors.visible import Board, select_boards
from tracker.settings import GpuChoice

BOARDS = tuple(Board(i, f"GPU-0000000{i}-aaaa", "A", f"00000000:0{i + 1}:00.0") for i in range(4))
MIXED = (*BOARDS[:3], replace(BOARDS[3], name="B"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("abc", []),
        ("0", [0]),
        ("2,1", [2, 1]),
        ("0,2,-1,1", [0, 2]),
        ("1,7,0", [1]),
        (" 1 , 3", [1, 3]),
        ("0,0", []),
        ("GPU-00000002-aaaa", [2]),
        ("GPU-00000003", [3]),
        ("GPU-00000001,GPU-00000000", [1, 0]),
        ("GPU-0000000", []),
        ("GPU-ffffffff", []),
        ("GPU-00000001,GPU-ffffffff,GPU-00000000", [1]),
        ("1,GPU-00000002", [1]),
    ],
)
def test_the_gpus_measured_are_those_that_cuda_shows(value: str | None, expected: list[int]) -> None:
    # Case 208.
    environ = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}

    selection = select_boards(BOARDS, "visible", environ)

    assert [board.index for board in selection.boards] == expected
    assert selection.warnings == ()
    assert bool(selection.reason) == (not expected)


@pytest.mark.parametrize(
    ("environ", "expected", "warns"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1"}, [0, 1, 2, 3], True),
        ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [1], False),
        ({"CUDA_VISIBLE_DEVICES": "GPU-00000003"}, [3], False),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [0, 1, 2, 3], False),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, [], False),
        ({"CUDA_VISIBLE_DEVICES": "MIG-1234"}, [0, 1, 2, 3], True),
    ],
)
def test_integers_among_different_models_choose_only_in_pci_order(
    environ: dict[str, str], expected: list[int], warns: bool
) -> None:
    selection = select_boards(MIXED, "visible", environ)

    assert [board.index for board in selection.boards] == expected
    assert bool(selection.warnings) == warns


@pytest.mark.parametrize(
    ("gpus", "expected", "warns"),
    [
        ("all", [0, 1, 2, 3], False),
        ("none", [], False),
        ((3, "GPU-00000001"), [3, 1], False),
        ((0, 7), [0], True),
        (("GPU-ffffffff",), [], True),
    ],
)
def test_the_user_s_choice_stands_over_cuda_s(gpus: GpuChoice, expected: list[int], warns: bool) -> None:
    selection = select_boards(BOARDS, gpus, {"CUDA_VISIBLE_DEVICES": "2"})

    assert [board.index for board in selection.boards] == expected
    assert bool(selection.warnings) == warns


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_integers_count_in_pci_order_however_nvml_lists_the_boards(order: tuple[int, ...]) -> None:
    listed = [BOARDS[i] for i in order]

    selection = select_boards(listed, "visible", {"CUDA_VISIBLE_DEVICES": "1"})

    assert [board.index for board in selection.boards] == [1]
