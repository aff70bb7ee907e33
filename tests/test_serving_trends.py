"""The lines of the charts of trends: every month, no sum across bases, nothing left out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tracker.records import Total
from tracker.serving.trends import MOST_LINES, lines_of


def a_total(project: str | None, month: str, kwh: float | None, *, basis: str = "direct") -> Total:
    group = {"project": project, "month": month}
    energy_j = None if kwh is None else kwh * 3.6e6
    return Total(group, 1, 0, 1.0, energy_j, None, None if kwh is None else kwh * 100, None, basis, (), 0, 0, 1.0)


def test_every_month_has_a_place_none_is_0_and_unknown_is_not():
    found = lines_of([a_total("a", "2025-11", 3.0), a_total("a", "2026-02", None), a_total(None, "2025-12", 1.0)])

    assert found["months"] == ["2025-11", "2025-12", "2026-01", "2026-02"]
    assert [line["label"] for line in found["lines"]] == ["a", "(no project)"]
    assert [line["energy_kwh"] for line in found["lines"]] == [[3.0, 0.0, 0.0, None], [0.0, 1.0, 0.0, 0.0]]


def test_no_line_holds_emissions_on_two_bases():
    many = [a_total(f"p{n}", "2026-01", 100.0 - n, basis="direct" if n % 2 else "lifecycle") for n in range(20)]

    *_, others = lines_of(many)["lines"]

    assert others["label"] == f"{20 - MOST_LINES + 1} others"
    assert others["energy_kwh"][0] is not None and others["emissions_kg"] == [None]


@given(st.dictionaries(st.tuples(st.integers(0, 20), st.integers(1, 12)), st.floats(0, 1e6), max_size=40))
def test_the_lines_add_up_to_the_totals(energy_kwh):
    totals = [a_total(f"p{project}", f"2026-{month:02d}", kwh) for (project, month), kwh in energy_kwh.items()]

    found = lines_of(totals)

    in_all = sum(sum(line["energy_kwh"]) for line in found["lines"])
    assert abs(in_all - sum(energy_kwh.values())) <= 1e-6 * (1 + in_all)
    assert len(found["lines"]) <= MOST_LINES


def test_no_runs_make_no_lines():
    assert lines_of([]) == {"months": [], "start_s": [], "lines": []}
