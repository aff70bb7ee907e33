"""What every provider must keep to, and what each makes of the answers of its service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from grid_server import SAMPLES, GridServer, Reply, sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.errors import (
    ForbiddenError,
    NotServedError,
    OfflineError,
    ProviderError,
    RateLimitedError,
    TemporaryError,
    UnauthorisedError,
    UnbelievableError,
)
from tracker.intensity.providers.protocol import Answer, Provider
from tracker.intensity.providers.registry import BUILTIN, provider_for

LOGIN = {"token": "login-not-real"}
TOKEN = "someone:s3cr3t-not-real"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@dataclass(frozen=True)
class Recorded:
    """An answer on record, and what must come of it: (start, g/kWh, status) of each value, reasons of the gaps."""

    provider: str
    zone: str
    name: str
    now: str
    start: str
    end: str
    values: tuple[tuple[str, float, str], ...]
    gaps: tuple[tuple[str, str], ...] = ()
    step_s: float = 3600.0
    path: str = "/"


NULL = "the source gives no value (null)"
NO_FORECAST = "not over yet, and the source has no forecast"
NOTHING = "no value in the answer"
MOER_G_PER_KWH = 870 * 0.45359237

RECORDED = (
    Recorded("neso", "GB", "gb_intensity.json", "2018-01-20T12:45Z", "2018-01-20T12:00Z", "2018-01-20T12:30Z",
             (("2018-01-20T12:00Z", 263.0, "provisional"),), step_s=1800),
    Recorded("neso", "GB", "gb_intensity.json", "2018-01-22T12:45Z", "2018-01-20T12:10Z", "2018-01-20T12:50Z",
             (("2018-01-20T12:00Z", 263.0, "final"),), (("2018-01-20T12:30Z", NOTHING),), step_s=1800),
    Recorded("neso", "GB", "gb_fw24h_null_actual.json", "2020-05-24T00:05Z", "2020-05-24T00:00Z", "2020-05-24T00:30Z",
             (("2020-05-24T00:00Z", 146.0, "forecast"),), step_s=1800),
    Recorded("neso", "GB-RG10", "gb_regional_range_postcode.json", "2018-03-20T12:00Z", "2018-01-20T12:00Z",
             "2018-01-20T12:30Z", (("2018-01-20T12:00Z", 266.0, "forecast"),), step_s=1800),
    Recorded("neso", "GB-RG10", "gb_regional_postcode.json", "2018-03-20T12:00Z", "2018-01-20T12:00Z",
             "2018-01-20T12:30Z", (("2018-01-20T12:00Z", 266.0, "forecast"),), step_s=1800),
    Recorded("neso", "GB-3", "gb_regional_range_postcode.json", "2018-03-20T12:00Z", "2018-01-20T12:00Z",
             "2018-01-20T12:30Z", (("2018-01-20T12:00Z", 266.0, "forecast"),), step_s=1800),
    Recorded("neso", "GB", "gb_empty_list.json", "2018-01-22T12:45Z", "2018-01-20T12:00Z", "2018-01-20T12:30Z",
             (), (("2018-01-20T12:00Z", NOTHING),)),
    Recorded("odre", "FR", "fr_odre_v21_records.json", "2025-01-06T00:40Z", "2025-01-06T00:00Z", "2025-01-06T00:45Z",
             (("2025-01-06T00:00Z", 18.0, "provisional"),),
             (("2025-01-06T00:30Z", NOTHING), ("2025-01-06T00:40Z", NO_FORECAST)), step_s=1800),
    Recorded("energidataservice", "DK-DK1", "dk_co2emis.json", "2023-12-20T18:00Z", "2023-12-20T12:00Z",
             "2023-12-20T12:05Z", (("2023-12-20T12:00Z", 94.0, "provisional"),), step_s=300),
    Recorded("energidataservice", "DK-DK1", "dk_co2emisprog.json", "2026-10-07T12:00Z", "2026-10-07T21:55Z",
             "2026-10-07T22:05Z", (("2026-10-07T21:55Z", 61.0, "forecast"),), (("2026-10-07T22:00Z", NOTHING),),
             step_s=300),
    Recorded("electricitymaps", "US-CAR-DUK", "em_v3_latest_estimated.json", "2025-03-29T18:20Z", "2025-03-29T18:00Z",
             "2025-03-29T18:20Z", (("2025-03-29T18:00Z", 144.0, "estimated"),)),
    Recorded("electricitymaps", "US-CAR-DUK", "em_v3_latest_estimated.json", "2025-03-29T17:50Z", "2025-03-29T17:00Z",
             "2025-03-29T18:30Z", (("2025-03-29T18:00Z", 144.0, "forecast"),), (("2025-03-29T17:00Z", NOTHING),)),
    Recorded("electricitymaps", "FR", "em_v3_latest_short.json", "2025-11-21T20:30Z", "2025-11-21T19:00Z",
             "2025-11-21T19:30Z", (("2025-11-21T19:00Z", 58.765447504659946, "estimated"),)),
    Recorded("electricitymaps", "JP-KN", "em_v3_history.json", "2024-09-30T08:50Z", "2024-09-30T06:00Z",
             "2024-09-30T08:50Z",
             (("2024-09-30T06:00Z", 355.0, "estimated"), ("2024-09-30T07:00Z", 384.0, "estimated")),
             (("2024-09-30T08:00Z", NULL),)),
    Recorded("electricitymaps", "DE", "em_v3_past.json", "2019-05-22T00:00Z", "2019-05-21T00:00Z", "2019-05-21T01:00Z",
             (("2019-05-21T00:00Z", 322.0, "provisional"),)),
    Recorded("electricitymaps", "DE", "em_v3_past_range.json", "2022-05-01T00:00Z", "2019-05-21T00:00Z",
             "2019-05-21T02:00Z", (("2019-05-21T00:00Z", 322.0, "final"),), (("2019-05-21T01:00Z", NOTHING),)),
    Recorded("electricitymaps", "NL", "em_v3_forecast.json", "2026-09-18T11:50Z", "2026-09-18T12:00Z",
             "2026-09-18T14:00Z", (("2026-09-18T12:00Z", 326.0, "forecast"), ("2026-09-18T13:00Z", 297.0, "forecast"))),
    Recorded("electricitymaps", "SE-SE3", "em_v4_latest.json", "2026-09-18T13:10Z", "2026-09-18T12:00Z",
             "2026-09-18T13:00Z", (("2026-09-18T12:00Z", 42.5, "provisional"),)),
    Recorded("watttime", "CAISO_NORTH", "wt_historical.json", "2024-01-01T00:00Z", "2022-07-15T00:00Z",
             "2022-07-15T00:10Z", (("2022-07-15T00:00Z", MOER_G_PER_KWH, "estimated"),
                                   ("2022-07-15T00:05Z", 860 * 0.45359237, "estimated")), step_s=300),
    Recorded("energycharts", "DE", "ec_co2eq.json", "2026-07-12T23:00Z", "2026-07-12T22:00Z", "2026-07-12T23:15Z",
             (("2026-07-12T22:00Z", 491.5, "provisional"), ("2026-07-12T22:15Z", 497.4, "provisional"),
              ("2026-07-12T22:30Z", 502.6, "provisional"), ("2026-07-12T22:45Z", 505.0, "forecast"),
              ("2026-07-12T23:00Z", 508.0, "forecast")), step_s=900),
    Recorded("eia", "US-NW-PGE", "eia_fuel_type_nulls.json", "2022-11-01T12:00Z", "2022-10-31T10:00Z",
             "2022-10-31T12:00Z", (("2022-10-31T11:00Z", 0.97 * 453.59237, "provisional"),),
             (("2022-10-31T10:00Z", "no generation of NG for this hour"),)),
)  # fmt: skip
BY_PROVIDER = {name: [case for case in RECORDED if case.provider == name] for name in BUILTIN}


def chosen(grid: GridServer, name: str, now: str, zone: str, **more: Any) -> Provider:
    prefix = f"TRACKER_{name.upper()}"
    environ = {f"{prefix}_URL": grid.url, f"{prefix}_TOKEN": TOKEN}
    choice = provider_for(zone, named=name, environ=environ, now=lambda: at(now), **more)
    assert choice is not None and choice.zone == zone
    return choice.provider


def fetched(grid: GridServer, case: Recorded, **more: Any) -> Answer:
    grid.plays(LOGIN, path="/login")
    return chosen(grid, case.provider, case.now, case.zone, **more).fetch(case.zone, at(case.start), at(case.end))


def assert_lawful(answer: Answer, case: Recorded) -> None:
    """Values and gaps cover what was asked, each instant once, and every value can be an intensity."""
    start, end = at(case.start), at(case.end)
    pieces = sorted(
        [(max(value.start, start), min(value.end, end)) for value in answer.values]
        + [(gap.start, gap.end) for gap in answer.gaps]
    )
    edges = [start, *(piece[1] for piece in pieces)]
    assert [piece[0] for piece in pieces] == edges[:-1] and edges[-1] == end
    for value in answer.values:
        assert 0 <= value.intensity_g_per_kwh <= 3000
        assert (value.zone, value.provider) == (case.zone, case.provider)
        assert value.signal == BUILTIN[case.provider].profile.signal
        assert value.licence and value.source and value.dataset and value.raw_unit and value.fetched_at == at(case.now)
    assert all(gap.reason for gap in answer.gaps)


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case.zone}-{case.name}")
def test_an_answer_on_record_gives_these_values_and_gaps(grid: GridServer, case: Recorded) -> None:
    grid.plays(sample(case.name))
    if case.provider == "energidataservice":  # one answer per dataset
        other = "CO2Emis" if "prog" in case.name else "CO2EmisProg"
        grid.plays({"dataset": other, "records": []}, path=f"/dataset/{other}")
        grid.plays(sample(case.name), path="/dataset/CO2EmisProg" if "prog" in case.name else "/dataset/CO2Emis")

    answer = fetched(grid, case)

    assert_lawful(answer, case)
    found = [(value.start, value.intensity_g_per_kwh, value.status) for value in answer.values]
    assert found == [(at(start), pytest.approx(grams), status) for start, grams, status in case.values]
    assert [(gap.start, gap.reason) for gap in answer.gaps] == [(at(start), reason) for start, reason in case.gaps]
    for value in answer.values:
        assert value.end - value.start == timedelta(seconds=case.step_s)


def test_every_answer_of_another_service_is_refused_or_gives_no_value(grid: GridServer) -> None:
    own = {(case.provider, case.name) for case in RECORDED}
    played = sorted(path for path in SAMPLES.iterdir() if path.name != "README.md")

    believed = []
    for name, (case, *_) in BY_PROVIDER.items():
        for path in played:
            if (name, path.name) in own:
                continue
            grid.plays(Reply(path.read_bytes()))
            try:
                answer = fetched(grid, case)
            except ProviderError:
                continue
            assert_lawful(answer, case)
            believed += [(name, path.name)] if answer.values else []

    assert len(played) > 35
    assert believed == []


@pytest.mark.parametrize("case", [cases[0] for cases in BY_PROVIDER.values()], ids=lambda case: case.provider)
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply("<html>maintenance</html>", content_type="text/html"), UnbelievableError),
        (Reply(""), UnbelievableError),
        (Reply('"under maintenance"'), UnbelievableError),
        (Reply("[1]"), UnbelievableError),
        (Reply("401", 401), UnauthorisedError),
        (Reply("403", 403), ForbiddenError),
        (Reply("404", 404), NotServedError),
        (Reply("429", 429, headers={"Retry-After": "60"}), RateLimitedError),
        (Reply(sample("gb_error_500.json"), 500), TemporaryError),
        (Reply("503", 503, "text/plain"), TemporaryError),
        (Reply("", fault="reset"), TemporaryError),
        (Reply("{", fault="cut"), TemporaryError),
    ],
    ids=lambda part: str(getattr(part, "__name__", "")),
)
def test_a_fault_is_the_same_error_from_every_provider(
    grid: GridServer, case: Recorded, reply: Reply, error: type[ProviderError]
) -> None:
    grid.plays(reply)

    with pytest.raises(ProviderError) as caught:
        fetched(grid, case)

    assert type(caught.value) is error
    assert str(caught.value).startswith(BUILTIN[case.provider].profile.title)
    assert "s3cr3t" not in str(caught.value)
    assert len(grid.asked) <= 4


FIRST = [cases[0] for cases in BY_PROVIDER.values()]


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.provider)
def test_offline_no_provider_asks_anybody(grid: GridServer, case: Recorded) -> None:
    with pytest.raises(OfflineError):
        fetched(grid, case, offline=True)

    assert grid.asked == []


@pytest.mark.parametrize("name", BUILTIN)
def test_a_provider_that_needs_a_token_says_which_before_it_asks(grid: GridServer, name: str) -> None:
    case = BY_PROVIDER[name][0]
    grid.plays(sample(case.name))
    choice = provider_for(
        case.zone, named=name, environ={f"TRACKER_{name.upper()}_URL": grid.url}, now=lambda: at(case.now)
    )
    assert choice is not None

    if BUILTIN[name].profile.needs_token:
        with pytest.raises(UnauthorisedError, match=f"TRACKER_{name.upper()}_TOKEN"):
            choice.provider.fetch(case.zone, at(case.start), at(case.end))
        assert grid.asked == []
    else:
        choice.provider.fetch(case.zone, at(case.start), at(case.end))
        assert grid.asked


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.provider)
def test_a_zone_that_a_provider_lacks_is_refused_before_it_asks(grid: GridServer, case: Recorded) -> None:
    provider = chosen(grid, case.provider, case.now, case.zone)

    with pytest.raises(NotServedError, match=r"it serves .+"):
        provider.fetch("US-CA", at(case.start), at(case.end))

    assert provider.code_of("US-CA") is None
    assert provider.code_of("US-EGRID-CAMX") is None
    assert grid.asked == []


@pytest.mark.parametrize("case", FIRST, ids=lambda case: case.provider)
def test_a_stretch_without_time_zone_or_length_is_the_callers_mistake(grid: GridServer, case: Recorded) -> None:
    provider = chosen(grid, case.provider, case.now, case.zone)

    for start, end in (
        (at(case.end), at(case.start)),
        (at(case.start), at(case.start)),
        (at(case.start).replace(tzinfo=None), at(case.end)),
    ):
        with pytest.raises(ValueError, match="start"):
            provider.fetch(case.zone, start, end)


@pytest.mark.parametrize(
    ("provider", "old", "new"),
    [
        ("neso", '"RG10"', '"SW1A"'),
        ("energidataservice", '"DK1"', '"DK2"'),
        ("electricitymaps", '"US-CAR-DUK"', '"US-FLA-FPL"'),
        ("watttime", '"CAISO_NORTH"', '"PJM_DC"'),
        ("watttime", '"co2_moer"', '"co2_aoer"'),
        ("watttime", '"lbs_co2_per_mwh"', '"percentile"'),
        ("eia", '"PGE"', '"PJM"'),
        ("eia", '"megawatthours"', '"megawatts"'),
    ],
)
def test_what_was_not_asked_for_is_not_believed(grid: GridServer, provider: str, old: str, new: str) -> None:
    case = next(case for case in BY_PROVIDER[provider] if old in sample(case.name).decode())
    grid.plays(sample(case.name).decode().replace(old, new).encode())

    with pytest.raises(UnbelievableError, match=r"asked for|answered in"):
        fetched(grid, case)


def lawful_or_refused(grid: GridServer, case: Recorded) -> str:
    """What the error says, "" where there is a lawful answer; anything else is raised."""
    try:
        assert_lawful(fetched(grid, case), case)
    except ProviderError as exc:
        return str(exc)
    return ""


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Each (container, key) within plain JSON types."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, inner in items:
        yield node, key
        yield from places(inner)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from([0, -1, -36.4, 1e999, 10**400, "ND", "489", "", "2026-10-25T02:30:00+02:00",
                       "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59Z", 1783893600, 2**63, "SANDBOX_MODE_DATA"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@pytest.mark.parametrize("name", BUILTIN)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_an_answer_changed_anywhere_is_lawful_or_one_of_our_errors(
    grid: GridServer, name: str, data: st.DataObject
) -> None:
    case = data.draw(st.sampled_from(BY_PROVIDER[name]))
    payload = json.loads(sample(case.name))
    for _ in range(data.draw(st.integers(1, 3))):
        spots = list(places(payload))
        if not spots:
            break
        container, key = data.draw(st.sampled_from(spots))
        change = data.draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
        if change == "remove":
            del container[key]
        elif change == "repeat" and isinstance(container, list):
            container.append(container[key])
        else:
            container[key] = data.draw(JSON_VALUES)
    grid.plays(json.dumps(payload, allow_nan=True).encode())

    said = lawful_or_refused(grid, case)

    assert said.isprintable()


@pytest.mark.parametrize("name", BUILTIN)
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payload=JSON_VALUES)
def test_no_json_raises_anything_but_our_errors(grid: GridServer, name: str, payload: Any) -> None:
    case = BY_PROVIDER[name][0]
    grid.plays(json.dumps(payload, allow_nan=True).encode())

    said = lawful_or_refused(grid, case)

    assert said == "" or said.startswith(BUILTIN[name].profile.title)


def test_who_is_labelled_untested_is_who_has_no_answer_on_record_that_proves_its_shape() -> None:
    untested = {name for name, entry in BUILTIN.items() if not entry.profile.is_tested}

    assert untested == {"odre", "energycharts", "eia"}
    assert all(BUILTIN[name].profile.untested for name in untested)
