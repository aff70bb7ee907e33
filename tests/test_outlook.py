"""The grid's intensity now, today and ahead: in Python and on the command line, from a local server or a file."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner
from grid_server import GridServer, Reply

import tracker
from tracker.cli import cli
from tracker.curve import Outlook, Step
from tracker.errors import SettingError
from tracker.records import IntensityValue, ZoneChoice
from tracker.session.outlook import length_of
from tracker.store.opening import open_for_writing
from tracker.views.outlook import greenest_text
from tracker.views.tables import columns_of

HALF_HOUR = timedelta(minutes=30)
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.setenv("TZ", "Europe/London")
    time.tzset()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    monkeypatch.undo()
    time.tzset()


def midnight() -> datetime:
    return datetime.now().astimezone().replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)


@pytest.fixture
def neso(grid: GridServer, monkeypatch: pytest.MonkeyPatch) -> GridServer:
    """200 g/kWh all the time, and 50 from four to six hours from now; measured until now."""
    now = datetime.now(UTC)
    low = now + 4 * HOUR
    data = []
    for n in range(160):
        start = midnight() + n * HALF_HOUR
        forecast = 50 if low <= start < low + 2 * HOUR else 200
        actual = 210 if start + HALF_HOUR < now else None
        stamps = {"from": f"{start:%Y-%m-%dT%H:%MZ}", "to": f"{start + HALF_HOUR:%Y-%m-%dT%H:%MZ}"}
        data.append(stamps | {"intensity": {"forecast": forecast, "actual": actual, "index": "low"}})
    monkeypatch.setenv("TRACKER_NESO_URL", grid.url)
    monkeypatch.setenv("TRACKER_PROVIDER", "neso")
    monkeypatch.setenv("TRACKER_ZONE", "GB")
    grid.plays({"data": data})
    return grid


def command(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(cli, ["intensity", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_what_holds_now_comes_with_today_and_tomorrow(neso):
    outlook = tracker.intensity_of()

    assert (outlook.zone.zone, outlook.asked, outlook.now.intensity_g_per_kwh) == ("GB", "neso", 200)
    assert outlook.now.status == "forecast" and "CC BY" in outlook.licence
    assert outlook.steps[0].start == midnight() and outlook.steps[-1].end >= outlook.at + 47 * HOUR
    past = [step for step in outlook.steps if step.end < outlook.at - HALF_HOUR]
    assert {step.value.intensity_g_per_kwh for step in past} <= {210}
    assert outlook.to_dict()["now"]["intensity_g_per_kwh"] == 200


def test_the_greenest_start_is_told_with_what_it_saves(neso):
    found = tracker.intensity_of().greenest(timedelta(hours=2), timedelta(hours=24))

    assert found.window.intensity_g_per_kwh == pytest.approx(50)
    assert found.now.intensity_g_per_kwh == pytest.approx(200)
    assert found.saves_share == pytest.approx(0.75) and found.saves_g_per_kwh == pytest.approx(150)
    text = command("--best", "2h", "--within", "24h", "--kwh", "10")
    assert "greenest start: " in text and "saves 75" in text and "500 g CO2e instead of 2.00 kg" in text
    as_json = json.loads(command("--best", "2h", "--json"))
    assert as_json["greenest"]["window"]["intensity_g_per_kwh"] == pytest.approx(50)


def test_one_answer_serves_all_who_share_a_database(neso):
    open_for_writing(os.environ["TRACKER_DB"])

    first = tracker.intensity_of()
    again = tracker.intensity_of()

    assert len(neso.asked) == 1
    assert [step.value for step in again.steps] == [step.value for step in first.steps]


def test_nothing_goes_out_unless_a_source_is_configured(neso, place, monkeypatch):
    monkeypatch.delenv("TRACKER_PROVIDER")

    outlook = tracker.intensity_of("GB")

    assert neso.asked == [] and outlook.steps == ()
    assert outlook.now.status == "static"
    assert "set TRACKER_PROVIDER" in " ".join(outlook.text().split())
    with pytest.raises(SettingError, match="nobody is asked"):
        outlook.greenest(HOUR)
    assert not (place / "runs.db").exists()


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(status=503), "503"),
        (Reply("<html>", content_type="text/html"), "text/html"),
        (Reply(fault="reset"), "cannot be reached"),
        (Reply({"data": []}), ""),
    ],
)
def test_a_source_without_an_answer_leaves_the_static_value_and_says_why(neso, reply, told):
    neso.plays(reply)

    outlook = tracker.intensity_of()

    assert outlook.steps == () and outlook.now.status == "static"
    assert outlook.notes and told in " ".join(outlook.notes)
    command("--best", "2h", code=1)


def test_a_file_of_ones_own_is_a_forecast_too(place):
    hours = [
        {"start": f"{midnight() + n * HOUR:%Y-%m-%dT%H:%MZ}", "g_per_kwh": 100 + n, "status": "forecast"}
        for n in range(72)
    ]
    (place / "mine.json").write_text(json.dumps(hours))

    found = tracker.intensity_of("FR", intensity_file="mine.json").greenest(timedelta(hours=3))

    assert abs(found.window.start - datetime.now(UTC)) < timedelta(minutes=1)
    assert found.saves_share == pytest.approx(0.0)


@pytest.mark.parametrize(
    "arguments",
    [
        ("Atlantis",),
        ("--provider", "nobody"),
        ("--best", "soon"),
        ("--best", "0h"),
        ("--best", "90h", "--within", "24h"),
        ("--within", "24h"),
        ("--kwh", "1"),
        ("--best", "1h", "--kwh", "-1"),
    ],
)
def test_a_wrong_question_is_refused(neso, arguments):
    result = CliRunner().invoke(cli, ["intensity", *arguments])

    assert result.exit_code in (1, 2) and isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("text", "hours"), [("90m", 1.5), ("90min", 1.5), ("6h", 6), ("1.5d", 36), (" 2 h ", 2), (timedelta(hours=1), 1)]
)
def test_lengths_of_time_are_written_as_people_do(text, hours):
    assert length_of(text, "x") == timedelta(hours=hours)


AT = datetime(2026, 7, 1, 11, 0, tzinfo=UTC)
START = datetime(2026, 6, 30, 23, 0, tzinfo=UTC)


def outlook_of(levels: list[float | None], **fields) -> Outlook:
    """One level an hour from local midnight on, the present at noon."""
    steps = []
    for n, level in enumerate(levels):
        if level is not None:
            start = START + n * HOUR
            status = "final" if start < AT else "forecast"
            value = IntensityValue("GB", level, "neso", "x", status, start=start, end=start + HOUR)
            steps.append(Step(start, start + HOUR, value))
    fallback = IntensityValue("GB", 216.5, "bundled", "ember", "static", basis="lifecycle", year=2024)
    given = {
        "zone": ZoneChoice("GB", "United Kingdom", "setting", "argument zone"),
        "asked": "neso",
        "title": "NESO",
        "licence": "CC BY 4.0",
        "at": AT,
        "start": START,
        "end": START + 48 * HOUR,
        "steps": tuple(steps),
        "fallback": fallback,
        "notes": (),
    }
    return Outlook(**{**given, **fields})


CHART = """\
United Kingdom (GB): 130 g/kWh now (forecast, average)

   240                                                ####
                                               ###########
                                         #################
   120                            ########################
                            ##############################
                      ####################################
               ###########################################
     0   #################################################
 g/kWh =========================^.........................
       Wed   03:00 06:00  09:00 12:00 15:00  18:00 21:00
       ^ now; = measured or estimated; . forecast; local
       time

NESO: average; licence: CC BY 4.0"""


def test_the_whole_chart_at_60_columns():
    text = outlook_of([10.0 * (n + 1) for n in range(24)]).text(59, is_ascii=True)

    assert text == CHART


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("is_ascii", [False, True])
@pytest.mark.parametrize(
    "levels", [[0.0] * 24, [5.0], [None, 10.0, None, 900.0] * 12, [-50.0, 100.0] * 20, [1e-9] * 30]
)
def test_no_line_is_wider_than_the_terminal_whatever_the_values(width, is_ascii, levels):
    outlook = outlook_of(levels)
    ahead = outlook_of([100.0] * 40)
    told = greenest_text(ahead.greenest(2 * HOUR), ahead, 1.0, width)

    for line in (*outlook.text(width, is_ascii=is_ascii).splitlines(), *told.splitlines()):
        assert columns_of(line) <= max(width, 22)
        assert line.isascii() or not is_ascii


def test_hours_without_a_value_are_marked_unknown_and_not_0():
    chart = outlook_of([100.0] * 6 + [None] * 12 + [100.0] * 6).text(80, is_ascii=True)

    assert "?" in next(line for line in chart.splitlines() if "g/kWh " in line and "==" in line)
    assert "unknown" in chart


def test_the_hours_of_the_day_on_which_the_clock_is_set_back_are_25():
    start = datetime(2026, 10, 24, 23, 0, tzinfo=UTC)
    steps = []
    for n in range(25):
        value = IntensityValue("GB", 1.0, "neso", "x", "final", start=start + n * HOUR, end=start + (n + 1) * HOUR)
        steps.append(Step(start + n * HOUR, start + (n + 1) * HOUR, value))

    text = outlook_of([], steps=tuple(steps), at=start + 2 * HOUR, start=start).text(110, is_ascii=True)

    hours = next(line for line in text.splitlines() if "06:00" in line)
    assert hours.count("06:00") == 1 and hours.index("06:00") - 7 == int(7 / 25 * 102)
