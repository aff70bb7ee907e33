"""The user's own series of intensities."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.errors import IntensityFileError, NotServedError, ProviderError, SettingError
from tracker.intensity.providers.ownfile import OwnFile
from tracker.intensity.providers.protocol import Answer
from tracker.units import GRAMS_PER_LB

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
START = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)


def answered(path: Path, content: str | bytes | Any, hours: int = 3, zone: str = "FR") -> Answer:
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return OwnFile(path, NOW).fetch(zone, START, START + hours * HOUR)


def grams(answer: Answer) -> list[float]:
    return [value.intensity_g_per_kwh for value in answer.values]


def gaps(answer: Answer) -> list[tuple[float, float, str]]:
    return [((gap.start - START) / HOUR, (gap.end - START) / HOUR, gap.reason) for gap in answer.gaps]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.csv"


@pytest.mark.parametrize(
    "content",
    [
        "start,g_per_kwh\n2026-11-25T00:00Z,100\n2026-11-25T01:00Z,200\n2026-11-25T02:00Z,300\n",
        "\ufeffdatetime;g_per_kwh\r\n2026-11-25T01:00+01:00;100\r\n2026-11-25T02:00+01:00;200\r\n2026-11-25T03:00+01:00;300",
        '"time"\t"intensity_g_per_kwh"\n2026-11-25T02:00Z\t300\n\n2026-11-25T00:00Z\t100\n2026-11-25T01:00Z\t200\n',
        [{"start": f"2026-11-25T0{n}:00Z", "g_per_kwh": 100 * (n + 1)} for n in range(3)],
        {"values": [{"start": f"2026-11-25T0{n}:00Z", "kg_per_mwh": 100 * (n + 1)} for n in range(3)]},
    ],
)
def test_csv_and_json_in_any_order_and_dress_are_the_same_series(path: Path, content: Any) -> None:
    answer = answered(path, content)

    assert grams(answer) == [100, 200, 300] and answer.gaps == ()
    assert [value.start for value in answer.values] == [START, START + HOUR, START + 2 * HOUR]
    assert {(value.status, value.provider, value.dataset) for value in answer.values} == {("final", "file", "mine.csv")}


@pytest.mark.parametrize(
    ("column", "number"),
    [
        ("g_per_kwh", 394.6),
        ("kg_per_mwh", 394.6),
        ("grid_kg_per_kwh", 0.3946),
        ("t_per_mwh", 0.3946),
        ("lb_per_mwh", 394_600 / GRAMS_PER_LB),
    ],
)
def test_a_unit_in_the_name_is_taken_at_its_word_and_kept(path: Path, column: str, number: float) -> None:
    (value,) = answered(path, f"start,end,{column}\n2026-11-25T00:00Z,2026-11-25T03:00Z,{number!r}\n").values

    assert value.intensity_g_per_kwh == pytest.approx(394.6)
    assert value.raw_value == number and column.endswith(value.raw_unit)


def test_a_file_whose_numbers_are_no_grids_has_a_wrong_unit(path: Path) -> None:
    with pytest.raises(ProviderError, match="which no grid reaches"):
        answered(path, "start,end,kg_per_kwh\n2026-11-25T00:00Z,2026-11-25T03:00Z,394.6\n")


def test_an_empty_cell_null_and_a_missing_hour_are_gaps(path: Path) -> None:
    csv = answered(path, "start,g_per_kwh\n2026-11-25T00:00Z,\n2026-11-25T01:00Z,0\n2026-11-25T04:00Z,5\n", hours=5)

    assert grams(csv) == [0, 5]
    assert gaps(csv) == [(0, 1, "the source gives no value (null)"), (2, 4, "no value in the answer")]


def test_a_value_holds_no_longer_than_the_shortest_step_unless_it_says_so(path: Path) -> None:
    half = "start,end,g_per_kwh\n2026-11-25T00:00Z,,1\n2026-11-25T00:30Z,2026-11-25T02:00Z,2\n2026-11-25T02:00Z,,3\n"

    answer = answered(path, half)

    assert [(value.end - value.start) / HOUR for value in answer.values] == [0.5, 1.5, 0.5]
    assert gaps(answer) == [(2.5, 3, "no value in the answer")]


def test_a_json_file_says_what_its_values_are(path: Path) -> None:
    content = {
        "signal": "marginal",
        "basis": "direct",
        "accounting": "site meter",
        "licence": "ours",
        "source": "the plant's log",
        "values": [{"start": "2026-11-25T00:00Z", "end": "2026-11-25T03:00Z", "g_per_kwh": 12, "status": "estimated"}],
    }

    (value,) = answered(path, content).values

    assert (value.signal, value.basis, value.accounting) == ("marginal", "direct", "site meter")
    assert (value.licence, value.source, value.status) == ("ours", "the plant's log", "estimated")


def test_a_file_with_zones_answers_for_those_alone(path: Path) -> None:
    rows = ("fr,2026-11-25T00:00Z,1", "FR,2026-11-25T01:00Z,2", "DE,2026-11-25T00:00Z,9", "DE,2026-11-25T01:00Z,8")
    content = "\n".join(("zone,start,g_per_kwh", *rows))

    assert grams(answered(path, content, hours=2)) == [1, 2]
    assert grams(answered(path, content, hours=2, zone="DE")) == [9, 8]
    with pytest.raises(NotServedError, match="but for DE, FR"):
        answered(path, content, zone="ES")
    assert OwnFile(path, NOW).code_of("ES") is None


def test_a_record_without_a_zone_holds_in_every_zone(path: Path) -> None:
    content = "zone,start,g_per_kwh\n,2026-11-25T00:00Z,1\nFR,2026-11-25T01:00Z,2\n,2026-11-25T02:00Z,3\n"

    assert grams(answered(path, content)) == [1, 2, 3]
    assert grams(answered(path, content, zone="DE")) == [1, 3]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "holds no values"),
        ("start,g_per_kwh\n", "holds no values"),
        ("[]", "holds no values"),
        ("when,g_per_kwh\n2026-11-25T00:00Z,1\n", "line 2: is missing a time"),
        ("start,intensity\n2026-11-25T00:00Z,1\n", "line 2: is missing a time or one value"),
        ("start,g_per_kwh,lb_per_mwh\n2026-11-25T00:00Z,1,2\n", "line 2: is missing"),
        ("start,g_per_kwh\n2026-11-25T00:00,1\n", "line 2: '2026-11-25T00:00' could be any time zone's; add Z"),
        ("start,g_per_kwh\n25.11.2026,1\n", "line 2: '25.11.2026' is not a time; write it like"),
        ("start,g_per_kwh\n,1\n", "line 2: None is not a time"),
        ("start;g_per_kwh\n2026-11-25T00:00Z;1,5\n", "line 2: '1,5' is no intensity"),
        ("start,g_per_kwh\n2026-11-25T00:00Z,-1\n", "line 2: '-1' is no intensity"),
        ("start,g_per_kwh\n2026-11-25T00:00Z,nan\n", "line 2: 'nan' is no intensity"),
        ("start,g_per_kwh\n2026-11-25T00:00Z,1,5\n", "line 2: has 3 cells under 2 columns"),
        ("start,g_per_kwh\n2026-11-25T00:00Z,1\n2026-11-25T01:00+01:00,2\n", "line 3: starts when .*line 2 does"),
        ("start,g_per_kwh\n2026-11-25T00:00Z,1\n", "line 2: is the only value"),
        ("start,end,g_per_kwh\n2026-11-25T01:00Z,2026-11-25T00:00Z,1\n", "line 2: ends before it starts"),
        ("start,end,g_per_kwh\n2026-11-25T00:00Z,2026-11-25T02:00Z,1\n2026-11-25T01:00Z,,1\n", "line 2: still holds"),
        ("start,g_per_kwh,status\n2026-11-25T00:00Z,1,sure\n", "line 2: status 'sure' is none of static"),
        ('start,g_per_kwh\n"2026-11-25T00:00Z,1\n', "is no CSV"),
        ('{"values": 3}', "must be a list of objects"),
        ('{"values": [{"start": "x"}', "is not JSON"),
        ('{"signal": "both", "values": [{"start": "2026-11-25T00:00Z", "g_per_kwh": 1}]}', "signal is average or"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line_and_the_remedy(path: Path, content: str, said: str) -> None:
    with pytest.raises(IntensityFileError, match=said) as caught:
        answered(path, content)

    assert str(path) in str(caught.value)
    assert isinstance(caught.value, SettingError) and isinstance(caught.value, ProviderError)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(IntensityFileError, match=r"none.csv: cannot be read"):
        OwnFile(tmp_path / "none.csv", NOW)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=80)
    | st.text(max_size=80)
    | st.lists(st.text("0123456789-T:Z,;\n+.\"'eEnaif", max_size=40), max_size=4).map(
        lambda lines: "start,end,g_per_kwh\n2026-11-25T00:00Z,,1\n" + "\n".join(lines)
    )
)
def test_no_content_raises_anything_but_our_errors(path: Path, content: str | bytes) -> None:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)

    try:
        answer = OwnFile(path, NOW).fetch("FR", START, START + HOUR)
    except ProviderError:
        return

    assert answer.values or answer.gaps
