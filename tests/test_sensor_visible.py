"""Which GPUs are this run's."""

from dataclasses import replace

import cuda_rule
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tracker.sensors.visible import Board, Selection, Slice, select_boards
from tracker.settings import GpuChoice

BOARDS = tuple(Board(i, f"GPU-0000000{i}-aaaa", "A", f"00000000:0{i + 1}:00.0") for i in range(4))
MIXED = (*BOARDS[:3], replace(BOARDS[3], name="B"))
CUT = replace(
    BOARDS[1],
    compute_slices=7,
    slices=(Slice("MIG-aaaa-1111", 1, 0, "3g.20gb", 3), Slice("MIG-aabb-2222", 2, 0, "1g.5gb", 1)),
)
WITH_MIG = (BOARDS[0], CUT, *BOARDS[2:])


def visible(value: str | None, boards: tuple[Board, ...] = BOARDS, **environ: str) -> Selection:
    return select_boards(boards, "visible", environ | ({} if value is None else {"CUDA_VISIBLE_DEVICES": value}))


def chosen(selection: Selection) -> list[tuple[int, tuple[str, ...]]]:
    return [(b.index, tuple(one.uuid for one in selection.slices.get(b.index, ()))) for b in selection.boards]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        (" ", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("abc", []),
        ("none", []),
        ("all", []),
        ("0", [0]),
        ("2,1", [2, 1]),
        ("3,2,1,0", [3, 2, 1, 0]),
        ("0,2,-1,1", [0, 2]),
        ("1,7,0", [1]),
        ("1,x,0", [1]),
        ("1,,0", [1]),
        (",0", []),
        ("0,1,", [0, 1]),
        (" 1 , 3", [1, 3]),
        ("\t1\n", [1]),
        ("+3", [3]),
        ("-0", [0]),
        ("02", [2]),
        ("1a,2b", [1, 2]),
        ("1.5", [1]),
        ("0-2", [0]),
        ("- 1", []),
        ("99999999999999999999", []),
        ("٣", []),  # a digit to Python alone
        ("0,0", []),
        ("0,1,2,1", []),
        ("1,+1", []),
        ("1,-1,1", [1]),
        ("GPU-00000002-aaaa", [2]),
        ("GPU-00000003", [3]),
        ("GPU-00000001,GPU-00000000", [1, 0]),
        ("GPU-00000001 , GPU-00000000", [1, 0]),
        ("GPU-0000000", []),  # of all four
        ("GPU-", []),
        ("gpu-00000000", []),
        ("00000000-aaaa", [0]),  # no UUID without "GPU-": a number
        ("GPU-ffffffff", []),
        ("GPU-00000002-aaaa-bbbb", []),
        ("GPU-00000001,GPU-ffffffff,GPU-00000000", [1]),
        ("GPU-00000001,GPU-00000001", []),
        ("GPU-00000001,GPU-00000001-aaaa", []),
        ("GPU-00000001,2", [1]),
        ("1,GPU-00000002", [1]),
    ],
)
def test_the_gpus_measured_are_those_that_cuda_shows(value: str | None, expected: list[int]) -> None:
    """Case 208 and its kind."""
    selection = visible(value)

    assert [board.index for board in selection.boards] == expected
    assert selection.warnings == ()
    assert bool(selection.reason) == (not expected)


ENTRIES = st.one_of(
    st.integers(-2, 5).map(str),
    st.sampled_from(["", " ", "+1", "-0", "03", "1a", " 2", "2 ", "x", "NoDevFiles", "GPU-", "MIG-", "MIG-GPU-"]),
    st.builds(lambda i, n: f"GPU-0000000{i}-aaaa"[:n], st.integers(0, 4), st.integers(4, 18)),
    st.builds(lambda uuid, n: uuid[:n], st.sampled_from(["MIG-aaaa-1111", "MIG-aabb-2222"]), st.integers(4, 13)),
    st.builds(lambda i, gi, ci: f"MIG-GPU-0000000{i}/{gi}/{ci}", *[st.integers(0, 2)] * 3),
    st.text("0123-+ ,GPUMIa/", max_size=6),
)


@settings(max_examples=300, deadline=None)
@given(
    value=st.none() | st.lists(ENTRIES, max_size=5).map(",".join),
    is_cut=st.lists(st.booleans(), min_size=4, max_size=4),
    order=st.permutations(range(4)),
)
def test_any_value_is_read_as_the_rule_reads_it(value: str | None, is_cut: list[bool], order: list[int]) -> None:
    cut = [
        replace(board, compute_slices=7, slices=tuple(replace(s, uuid=f"{s.uuid}-{board.index}") for s in CUT.slices))
        if is_this_cut
        else board
        for board, is_this_cut in zip(BOARDS, is_cut, strict=True)
    ]
    # Else nothing tells which board it would be: a test of its own, below.
    assume(any(is_cut) or value is None or not value.strip().startswith("MIG-"))

    selection = visible(value, tuple(cut[i] for i in order))

    gpus = [
        (board.uuid, [(s.uuid, s.gpu_instance or 0, s.compute_instance or 0) for s in board.slices]) for board in cut
    ]
    expected = cuda_rule.shown(value, gpus)
    assert [board.index for board in selection.boards] == [i for i, _ in expected]
    assert {i: [cut[i].slices.index(s) for s in some] for i, some in selection.slices.items()} == {
        i: [j] for i, j in expected if j is not None
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("MIG-aaaa-1111", [(1, ("MIG-aaaa-1111",))]),
        ("MIG-aab", [(1, ("MIG-aabb-2222",))]),
        ("MIG-GPU-00000001-aaaa/2/0", [(1, ("MIG-aabb-2222",))]),
        ("MIG-GPU-00000001/1/0", [(1, ("MIG-aaaa-1111",))]),
        ("MIG-aabb-2222,MIG-aaaa-1111", [(1, ("MIG-aabb-2222",))]),  # a process sees one at most
        ("MIG-aa", []),
        ("MIG-ffff,MIG-aaaa-1111", []),
        ("MIG-GPU-00000001/2/1", []),
        ("MIG-GPU-00000000/1/0", []),
        ("1", [(1, ("MIG-aaaa-1111",))]),
        ("GPU-00000001", [(1, ("MIG-aaaa-1111",))]),
        ("0,1,2", [(1, ("MIG-aaaa-1111",))]),
        (None, [(1, ("MIG-aaaa-1111",))]),
        ("0,2", [(0, ()), (2, ())]),
    ],
)
def test_a_mig_device_stands_for_its_board_and_hides_all_others(
    value: str | None, expected: list[tuple[int, tuple[str, ...]]]
) -> None:
    selection = visible(value, WITH_MIG)

    assert chosen(selection) == expected
    assert bool(selection.reason) == (not expected)


@pytest.mark.parametrize(
    ("boards", "expected"),
    [(BOARDS, [0, 1, 2, 3]), ((BOARDS[0], replace(BOARDS[1], compute_slices=7), *BOARDS[2:]), [1])],
)
def test_a_mig_device_that_nvml_does_not_list_may_be_on_any_board_in_mig_mode(
    boards: tuple[Board, ...], expected: list[int]
) -> None:
    selection = visible("MIG-1234", boards)

    assert chosen(selection) == [(index, ()) for index in expected]
    assert "NVML lists none here" in selection.warnings[0]


@pytest.mark.parametrize(
    ("environ", "expected", "warns"),
    [
        ({"CUDA_VISIBLE_DEVICES": "1"}, [0, 1, 2, 3], True),
        ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, [0, 1, 2, 3], True),
        ({"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, [1], False),
        ({"CUDA_VISIBLE_DEVICES": "GPU-00000003"}, [3], False),
        ({"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, [0, 1, 2, 3], False),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, [], False),
        ({"CUDA_VISIBLE_DEVICES": "0,0"}, [], False),
        ({"CUDA_DEVICE_ORDER": "FASTEST_FIRST"}, [0, 1, 2, 3], False),
    ],
)
def test_integers_among_different_models_choose_only_in_pci_order(
    environ: dict[str, str], expected: list[int], warns: bool
) -> None:
    selection = select_boards(MIXED, "visible", environ)

    assert [board.index for board in selection.boards] == expected
    assert [("all 4 GPUs are measured" in text, "PCI_BUS_ID" in text) for text in selection.warnings] == (
        [(True, True)] if warns else []
    )


def test_what_cuda_itself_shows_stands_over_the_environment() -> None:
    shown = ("00000003-aaaa", "00000000-aaaa")

    selection = select_boards(MIXED, "visible", {"CUDA_VISIBLE_DEVICES": "1,2"}, shown)

    assert chosen(selection) == [(3, ()), (0, ())]
    assert selection.warnings == ()


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (("aabb-2222",), [(1, ("MIG-aabb-2222",))]),
        (("00000001-aaaa",), [(1, ("MIG-aaaa-1111",))]),  # drivers before R470 name the board
    ],
)
def test_cuda_names_the_mig_device_itself(shown: tuple[str, ...], expected: list[tuple[int, tuple[str, ...]]]) -> None:
    assert chosen(select_boards(WITH_MIG, "visible", {}, shown)) == expected


@pytest.mark.parametrize("shown", [("ffffffff",), ("00000000-aaaa", "ffffffff"), ()])
def test_where_cuda_shows_what_nvml_does_not_know_the_environment_decides(shown: tuple[str, ...]) -> None:
    selection = select_boards(BOARDS, "visible", {"CUDA_VISIBLE_DEVICES": "2"}, shown)

    assert [board.index for board in selection.boards] == [2]


@pytest.mark.parametrize(
    ("gpus", "expected", "missing"),
    [
        ("all", [(0, ()), (1, ()), (2, ()), (3, ())], ""),
        ("none", [], ""),
        ((), [], ""),
        ((3, "GPU-00000000"), [(3, ()), (0, ())], ""),
        ((1, "GPU-00000001"), [(1, ())], ""),
        (("MIG-aabb",), [(1, ("MIG-aabb-2222",))], ""),
        (("MIG-aabb", "MIG-aaaa"), [(1, ("MIG-aabb-2222", "MIG-aaaa-1111"))], ""),
        (("MIG-aabb", "MIG-aabb-2222"), [(1, ("MIG-aabb-2222",))], ""),
        (("MIG-aabb", 1), [(1, ())], ""),
        (("MIG-GPU-00000001/2/0", 0), [(1, ("MIG-aabb-2222",)), (0, ())], ""),
        ((0, 7), [(0, ())], "no GPU is 7"),
        ((0, "GPU-0000"), [(0, ())], "GPU-0000 begins the UUIDs of 4"),
        (("GPU-ffffffff", "MIG-aa"), [], "no GPU is GPU-ffffffff, MIG-aa begins the UUIDs of 2"),
    ],
)
def test_the_user_s_choice_stands_over_cuda_s(
    gpus: GpuChoice, expected: list[tuple[int, tuple[str, ...]]], missing: str
) -> None:
    selection = select_boards(WITH_MIG, gpus, {"CUDA_VISIBLE_DEVICES": "2"}, ("00000002-aaaa",))

    assert chosen(selection) == expected
    assert bool(selection.reason) == (not expected)
    here = (
        "here are 0 (GPU-00000000), 1 (GPU-00000001), MIG-aaaa-1111, MIG-aabb-2222, 2 (GPU-00000002), 3 (GPU-00000003)"
    )
    assert selection.warnings == ((f"gpus: {missing}; {here}",) if missing else ())


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
def test_integers_count_in_pci_order_however_nvml_lists_the_boards(order: tuple[int, ...]) -> None:
    selection = visible("1", tuple(BOARDS[i] for i in order))

    assert [board.index for board in selection.boards] == [1]


def test_a_board_whose_bus_is_not_known_keeps_its_place() -> None:
    lost = Board(2)

    selection = visible("2,3", (*BOARDS[:2], lost, BOARDS[3]), CUDA_DEVICE_ORDER="PCI_BUS_ID")

    assert [board.index for board in selection.boards] == [2, 3]
