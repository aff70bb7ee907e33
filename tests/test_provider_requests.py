"""What each provider asks for, how it puts several answers together, and what it does where it is refused a part."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from grid_server import GridServer, Reply, sample

from tracker.errors import ForbiddenError, UnauthorisedError, UnbelievableError
from tracker.intensity.providers.protocol import Answer, Provider
from tracker.intensity.providers.registry import provider_for

NOW = datetime(2026, 11, 25, 12, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def provider(grid: GridServer, name: str, zone: str, now: Callable[[], datetime] = lambda: NOW) -> Provider:
    environ = {f"TRACKER_{name.upper()}_URL": grid.url, f"TRACKER_{name.upper()}_TOKEN": "me:not-real"}
    choice = provider_for(zone, named=name, environ=environ, now=now)
    assert choice is not None
    return choice.provider


def steps(first: datetime, last: datetime, step: timedelta) -> list[datetime]:
    return [first + step * n for n in range((last - first) // step)]


def paths(grid: GridServer) -> list[str]:
    return [asked.path for asked in grid.asked]


def reasons(answer: Answer) -> list[str]:
    return [gap.reason for gap in answer.gaps]


# NESO


def test_neso_is_asked_for_half_hours_two_weeks_at_a_time(grid: GridServer) -> None:
    start, end = NOW - 20 * DAY, NOW
    half_hours = [
        {"from": f"{time:%Y-%m-%dT%H:%MZ}", "to": f"{time + HOUR / 2:%Y-%m-%dT%H:%MZ}",
         "intensity": {"forecast": 1, "actual": 100}}
        for time in steps(datetime(2026, 11, 5, 12, tzinfo=UTC), datetime(2026, 11, 25, 12, 30, tzinfo=UTC), HOUR / 2)
    ]  # fmt: skip
    grid.plays({"data": half_hours})  # both requests get all of it: no step may count twice

    answer = provider(grid, "neso", "GB").fetch("GB", start, end)

    assert paths(grid) == [
        "/intensity/2026-11-05T12:00Z/2026-11-18T12:00Z",
        "/intensity/2026-11-18T12:00Z/2026-11-25T12:30Z",
    ]
    assert len(answer.values) == 20 * 48 + 1 and answer.gaps == ()
    assert {value.status for value in answer.values} == {"final", "provisional"}


@pytest.mark.parametrize(
    ("zone", "code"),
    [
        ("GB", "GB"),
        ("GB-13", "regionid/13"),
        ("GB-SCT", "regionid/16"),
        ("GB-SW1A", "postcode/SW1A"),
        ("AB12 3CD", "postcode/AB12"),
        ("GB-18", None),
        ("GB-NIR", None),
        ("IE", None),
    ],
)
def test_neso_knows_regions_nations_and_the_outward_half_of_postcodes(
    grid: GridServer, zone: str, code: str | None
) -> None:
    assert provider(grid, "neso", "GB").code_of(zone) == code


def test_neso_error_with_status_200_is_no_empty_answer(grid: GridServer) -> None:
    grid.plays(json.loads(sample("gb_error_500.json")))

    with pytest.raises(UnbelievableError, match="an error with status 200"):
        provider(grid, "neso", "GB").fetch("GB", NOW - HOUR, NOW)


# ODRÉ


def odre_row(time: datetime, value: object, nature: str = "Données temps réel") -> Mapping[str, Any]:
    return {"date_heure": time.isoformat(), "taux_co2": value, "nature": nature}


def test_odre_is_asked_in_utc_for_the_values_that_are_there(grid: GridServer) -> None:
    grid.plays({"results": []})

    provider(grid, "odre", "FR").fetch("FR", NOW - HOUR, NOW)

    query = grid.asked[0].query
    assert paths(grid) == ["/api/explore/v2.1/catalog/datasets/eco2mix-national-tr/records"]
    assert query["timezone"] == "UTC" and query["select"] == "date_heure,taux_co2,nature"
    assert 'date_heure>="2026-11-25T10:00:00Z" and date_heure<"2026-11-25T12:10:00Z"' in query["where"]


def test_odre_quarters_are_quarters_and_a_missing_one_is_a_gap(grid: GridServer) -> None:
    noon = NOW.replace(minute=0)
    grid.plays(
        {"results": [odre_row(noon + n * HOUR / 4 - HOUR, value) for n, value in enumerate(["18", 19, "ND", 21])]}
    )

    answer = provider(grid, "odre", "FR").fetch("FR", noon - HOUR, noon)

    assert [(value.start.minute, value.intensity_g_per_kwh) for value in answer.values] == [(0, 18), (15, 19), (45, 21)]
    assert reasons(answer) == ["'ND' is not a number"]


def test_odre_consolidated_rows_come_before_those_of_the_day(grid: GridServer) -> None:
    start = (NOW - 40 * DAY).replace(minute=0)
    halves = [odre_row(time, 30, "Données consolidées") for time in steps(start, start + HOUR, HOUR / 2)]
    defined = [odre_row(start + HOUR, 31, "Données définitives")]
    quarters = [odre_row(time, 99) for time in steps(start, start + 2 * HOUR, HOUR / 4)]
    datasets = "/api/explore/v2.1/catalog/datasets"
    grid.plays({"results": halves + defined}, path=f"{datasets}/eco2mix-national-cons-def")
    grid.plays({"results": quarters}, path=f"{datasets}/eco2mix-national-tr")

    answer = provider(grid, "odre", "FR").fetch("FR", start, start + 2 * HOUR)

    assert [(value.intensity_g_per_kwh, value.status) for value in answer.values] == [
        (30, "provisional"), (30, "provisional"), (31, "final"), (99, "provisional"), (99, "provisional"),
    ]  # fmt: skip
    assert {value.dataset for value in answer.values} == {"eco2mix-national-cons-def", "eco2mix-national-tr"}


def test_odre_exports_what_is_more_than_a_page(grid: GridServer) -> None:
    start, end = NOW - 15 * DAY, NOW
    grid.plays([odre_row(time, 20) for time in steps(start.replace(minute=0), end + HOUR / 4, HOUR / 4)])

    answer = provider(grid, "odre", "FR").fetch("FR", start, end)

    assert paths(grid) == ["/api/explore/v2.1/catalog/datasets/eco2mix-national-tr/exports/json"]
    assert answer.gaps == () and len(answer.values) > 1400


# Energi Data Service


def test_denmark_is_asked_once_per_dataset_and_measured_values_come_first(grid: GridServer) -> None:
    def records(dataset: str, first: datetime, last: datetime, value: float) -> dict[str, Any]:
        times = steps(first, last, HOUR / 12)
        rows = [{"Minutes5UTC": f"{t:%Y-%m-%dT%H:%M:%S}", "PriceArea": "DK2", "CO2Emission": value} for t in times]
        return {"dataset": dataset, "records": rows}

    grid.plays(records("CO2Emis", NOW - HOUR, NOW - HOUR / 12, 90.0), path="/dataset/CO2Emis")
    grid.plays(records("CO2EmisProg", NOW - HOUR / 2, NOW + HOUR, 70.0), path="/dataset/CO2EmisProg")

    answer = provider(grid, "energidataservice", "DK-DK2").fetch("DK-DK2", NOW - HOUR, NOW + HOUR)

    assert answer.gaps == ()
    assert [value.status for value in answer.values] == ["provisional"] * 11 + ["forecast"] * 13
    assert sorted(paths(grid)) == ["/dataset/CO2Emis", "/dataset/CO2EmisProg"]
    query = grid.asked[0].query
    assert (query["timezone"], query["limit"]) == ("UTC", "0")
    assert json.loads(query["filter"]) == {"PriceArea": ["DK2"]}
    assert (query["start"], query["end"]) == ("2026-11-25T11:10", "2026-11-25T12:10")


def test_denmark_forecast_in_place_of_what_was_measured_is_not_believed(grid: GridServer) -> None:
    grid.plays({"dataset": "CO2EmisProg", "records": []})

    with pytest.raises(UnbelievableError, match="asked for CO2Emis, it answered 'CO2EmisProg'"):
        provider(grid, "energidataservice", "DK-DK1").fetch("DK-DK1", NOW - HOUR, NOW)


def test_denmark_as_a_whole_is_not_guessed_to_be_one_of_its_halves(grid: GridServer) -> None:
    assert provider(grid, "energidataservice", "DK-DK1").code_of("DK") is None


# Electricity Maps


def em_hour(time: datetime, grams: float = 100) -> Mapping[str, Any]:
    stamp = time.isoformat()
    return {"zone": "DE", "carbonIntensity": grams, "datetime": stamp, "updatedAt": stamp, "isEstimated": False}


def em_hours(first: datetime, last: datetime, grams: float = 100) -> list[Mapping[str, Any]]:
    return [em_hour(time, grams) for time in steps(first.replace(minute=0), last, HOUR)]


def test_electricity_maps_past_is_asked_ten_days_at_a_time_and_the_border_counts_once(grid: GridServer) -> None:
    start = (NOW - 25 * DAY).replace(minute=0)
    grid.plays({"zone": "DE", "history": em_hours(NOW - DAY, NOW + HOUR)}, path="/v3/carbon-intensity/history")
    all_of_it = {"zone": "DE", "data": em_hours(start, NOW + HOUR)}
    grid.plays(all_of_it, path="/v3/carbon-intensity/past-range")

    answer = provider(grid, "electricitymaps", "DE").fetch("DE", start, NOW)

    asked = [asked.query["start"] for asked in grid.asked if asked.path.endswith("past-range")]
    assert asked == ["2026-10-31T12:00Z", "2026-11-10T12:00Z", "2026-11-20T12:00Z"]
    assert answer.gaps == () and len(answer.values) == 25 * 24 + 1
    assert grid.asked[0].headers["auth-token"] == "me:not-real"


def test_electricity_maps_free_plan_gives_a_day_and_says_what_it_withholds(grid: GridServer) -> None:
    grid.plays({"zone": "DE", "history": em_hours(NOW - DAY + HOUR, NOW + HOUR)}, path="/v3/carbon-intensity/history")
    grid.plays(Reply("Access denied", 403, "text/plain"))

    answer = provider(grid, "electricitymaps", "DE").fetch("DE", NOW - 3 * DAY, NOW + DAY)

    assert reasons(answer) == ["the plan of this token has no past ranges", "the plan of this token has no forecast"]
    assert len(answer.warnings) == 1 and "Access denied" in answer.warnings[0]
    assert len(answer.values) == 24


def test_electricity_maps_refuses_where_the_plan_withholds_all(grid: GridServer) -> None:
    grid.plays(Reply("Access denied", 403, "text/plain"))

    with pytest.raises(ForbiddenError):
        provider(grid, "electricitymaps", "DE").fetch("DE", NOW - 3 * DAY, NOW - 2 * DAY)


def test_electricity_maps_latest_is_asked_where_the_history_ends_early(grid: GridServer) -> None:
    noon = NOW.replace(minute=0)
    grid.plays({"zone": "DE", "history": em_hours(noon - 3 * HOUR, noon)}, path="/v3/carbon-intensity/history")
    grid.plays(dict(em_hour(noon, 250)), path="/v3/carbon-intensity/latest")

    answer = provider(grid, "electricitymaps", "DE").fetch("DE", noon - HOUR, NOW)

    assert [value.intensity_g_per_kwh for value in answer.values] == [100, 250]
    assert answer.gaps == ()


@pytest.mark.parametrize(("hours", "horizon"), [(1, "6"), (7, "24"), (30, "48"), (72, "72"), (200, "72")])
def test_electricity_maps_forecast_is_asked_as_far_as_it_is_needed(grid: GridServer, hours: int, horizon: str) -> None:
    grid.plays({"zone": "DE", "forecast": em_hours(NOW, NOW + 3 * HOUR)})

    answer = provider(grid, "electricitymaps", "DE").fetch("DE", NOW, NOW + hours * HOUR)

    assert [asked.query["horizonHours"] for asked in grid.asked] == [horizon]
    assert {value.status for value in answer.values} == {"forecast"}


def test_electricity_maps_version_is_that_of_the_base_address(grid: GridServer) -> None:
    grid.plays({"zone": "DE", "unit": "gCO2eq/kWh", "data": [{"datetime": NOW.isoformat(), "value": 5}]})
    environ = {"TRACKER_ELECTRICITYMAPS_URL": f"{grid.url}/v4/", "TRACKER_ELECTRICITYMAPS_TOKEN": "t0ken"}
    choice = provider_for("DE", environ=environ, now=lambda: NOW)
    assert choice is not None

    answer = choice.provider.fetch("DE", NOW, NOW + HOUR / 2)

    assert paths(grid)[0].startswith("/v4/carbon-intensity/")
    assert answer.values[0].intensity_g_per_kwh == 5


def test_electricity_maps_in_another_unit_step_or_basis_is_refused_or_says_so(grid: GridServer) -> None:
    asked = provider(grid, "electricitymaps", "DE")
    for extra in ({"unit": "kgCO2eq/kWh"}, {"temporalGranularity": "daily"}):
        grid.plays({"zone": "DE", "data": [{**em_hour(NOW - HOUR), **extra}]})
        with pytest.raises(UnbelievableError, match="answered in"):
            asked.fetch("DE", NOW - HOUR, NOW)

    grid.plays({"zone": "DE", "data": [{**em_hour(NOW - HOUR, grams=0), "emissionFactorType": "direct"}]})
    (value,) = asked.fetch("DE", NOW - HOUR, NOW).values

    assert (value.basis, value.intensity_g_per_kwh) == ("direct", 0)
    grid.plays({"zone": "DE", "data": [{**em_hour(NOW - HOUR), "emissionFactorType": "other"}]})
    assert asked.fetch("DE", NOW - HOUR, NOW).values[0].basis == "unknown"


# WattTime


def moer(first: datetime, last: datetime, value: float = 500.0) -> dict[str, Any]:
    points = [{"point_time": time.isoformat(), "value": value} for time in steps(first, last, HOUR / 12)]
    meta = {"data_point_period_seconds": 300, "region": "CAISO_NORTH", "signal_type": "co2_moer",
            "units": "lbs_co2_per_mwh", "model": {"date": "2026-01-01"},
            "warnings": [{"type": "X", "message": "maintenance on Friday"}]}  # fmt: skip
    return {"data": points, "meta": meta}


def test_watttime_logs_in_once_and_again_when_the_login_runs_out_or_is_refused(grid: GridServer) -> None:
    moment = [NOW]
    asked = provider(grid, "watttime", "CAISO_NORTH", now=lambda: moment[0])
    grid.plays({"token": "first"}, {"token": "second"}, {"token": "third"}, path="/login")
    grid.plays(moer(NOW - HOUR, NOW), path="/v3/historical")

    def logins_after_a_fetch() -> int:
        asked.fetch("CAISO_NORTH", NOW - HOUR, NOW)
        return paths(grid).count("/login")

    assert [logins_after_a_fetch(), logins_after_a_fetch()] == [1, 1]
    moment[0] += timedelta(minutes=26)
    assert logins_after_a_fetch() == 2
    grid.plays(Reply("expired", 401), moer(NOW - HOUR, NOW), path="/v3/historical")
    assert logins_after_a_fetch() == 3
    assert grid.asked[0].headers["Authorization"] == "Basic bWU6bm90LXJlYWw="
    assert grid.asked[-1].headers["Authorization"] == "Bearer third"
    assert "third" not in repr(asked)


def test_watttime_refuses_a_token_that_is_no_login_before_it_asks(grid: GridServer) -> None:
    environ = {"TRACKER_WATTTIME_URL": grid.url, "TRACKER_WATTTIME_TOKEN": "abcdef"}
    choice = provider_for("CAISO_NORTH", named="watttime", environ=environ)
    assert choice is not None

    with pytest.raises(UnauthorisedError, match="user:password"):
        choice.provider.fetch("CAISO_NORTH", NOW - HOUR, NOW)

    assert grid.asked == []


def test_watttime_history_and_forecast_are_one_series_with_what_the_service_says(grid: GridServer) -> None:
    grid.plays({"token": "login"}, path="/login")
    grid.plays(moer(NOW - 40 * DAY, NOW), path="/v3/historical")
    grid.plays(moer(NOW - HOUR, NOW + 2 * HOUR, 600.0), path="/v3/forecast")

    answer = provider(grid, "watttime", "CAISO_NORTH").fetch("CAISO_NORTH", NOW - 40 * DAY, NOW + HOUR)

    assert answer.gaps == () and len(answer.values) == 40 * 288 + 12
    assert [value.status for value in answer.values][-13:] == ["final"] + ["forecast"] * 12
    assert {(value.signal, value.note) for value in answer.values} == {("marginal", "model of 2026-01-01")}
    assert answer.warnings == ("WattTime: maintenance on Friday",)
    assert [asked.query.get("horizon_hours") for asked in grid.asked if asked.path == "/v3/forecast"] == ["1"]
    assert paths(grid).count("/v3/historical") == 2


def test_watttime_says_what_a_plan_withholds(grid: GridServer) -> None:
    grid.plays({"token": "login"}, path="/login")
    grid.plays(moer(NOW - HOUR, NOW), path="/v3/historical")
    grid.plays(Reply({"error": "Invalid scope"}, 403), path="/v3/forecast")

    answer = provider(grid, "watttime", "CAISO_NORTH").fetch("CAISO_NORTH", NOW - HOUR, NOW + HOUR)

    assert reasons(answer) == ["the plan of this token has no forecast"]
    assert any("Invalid scope" in said for said in answer.warnings)
    with pytest.raises(ForbiddenError):
        provider(grid, "watttime", "CAISO_NORTH").fetch("CAISO_NORTH", NOW, NOW + HOUR)


# Energy-Charts


def test_energy_charts_says_its_licence_and_refuses_lists_that_do_not_fit(grid: GridServer) -> None:
    first = int((NOW - HOUR).replace(minute=0).timestamp())
    payload = {"unix_seconds": [first, first + 900], "co2eq": [300, None], "co2eq_forecast": [None, 310]}
    grid.plays({**payload, "deprecated": True}, {**payload, "co2eq": [300]})
    asked = provider(grid, "energycharts", "GB")

    answer = asked.fetch("GB", NOW - HOUR, NOW - HOUR / 2)
    with pytest.raises(UnbelievableError, match="2 times, 1 values"):
        asked.fetch("GB", NOW - HOUR, NOW - HOUR / 2)

    assert "personal use" in answer.warnings[0] and "deprecated" in answer.warnings[1]
    assert [(value.status, value.dataset, value.basis) for value in answer.values] == [
        ("provisional", "co2eq", "unknown"),
        ("forecast", "co2eq_forecast", "unknown"),
    ]
    query = grid.asked[0].query  # from an hour ahead, so that a single step shows its length
    assert (query["country"], query["start"], query["end"]) == (
        "uk", "2026-11-25T10:00+00:00", "2026-11-25T12:00+00:00"
    )  # fmt: skip


def test_energy_charts_steps_are_as_long_as_they_are_apart(grid: GridServer) -> None:
    noon = NOW.replace(minute=0)
    times = [int((noon - 2 * HOUR).timestamp()), int((noon - HOUR).timestamp())]
    grid.plays({"unix_seconds": times, "co2eq": [300, 310]})

    answer = provider(grid, "energycharts", "DE").fetch("DE", noon - HOUR, noon)

    assert [(value.intensity_g_per_kwh, value.end - value.start) for value in answer.values] == [(310, HOUR)]
    assert answer.gaps == ()


# EIA


def eia(rows: list[tuple[str, str, object]], total: int | None = None) -> dict[str, Any]:
    data = [{"period": period, "respondent": "PJM", "fueltype": fuel, "value": value, "value-units": "megawatthours"}
            for period, fuel, value in rows]  # fmt: skip
    return {"response": {"total": str(len(rows) if total is None else total), "frequency": "hourly", "data": data}}


def mixed(grid: GridServer, *rows: tuple[str, str, object]) -> Answer:
    grid.plays(eia(list(rows)))
    start = datetime(2026, 11, 20, 10, tzinfo=UTC)
    return provider(grid, "eia", "US-MIDA-PJM").fetch("US-MIDA-PJM", start, start + HOUR)


def test_eia_hours_are_named_by_their_end_and_weighted_by_the_published_factors(grid: GridServer) -> None:
    answer = mixed(
        grid, ("2026-11-20T11", "COL", "1000"), ("2026-11-20T11", "NG", 2000), ("2026-11-20T11", "NUC", 1000)
    )

    (value,) = answer.values
    assert value.start == datetime(2026, 11, 20, 10, tzinfo=UTC)
    assert value.intensity_g_per_kwh == pytest.approx((1000 * 2.30 + 2000 * 0.97) / 4000 * 453.59237)
    query = grid.asked[0].query
    assert (query["start"], query["end"], query["facets[respondent][]"]) == ("2026-11-20T11", "2026-11-20T11", "PJM")


def test_eia_stores_and_negative_generation_count_as_nothing(grid: GridServer) -> None:
    answer = mixed(
        grid,
        ("2026-11-20T11", "NG", 1000),
        ("2026-11-20T11", "BAT", 900),
        ("2026-11-20T11", "PS", None),
        ("2026-11-20T11", "SUN", -3),
    )

    assert answer.values[0].intensity_g_per_kwh == pytest.approx(0.97 * 453.59237)


def test_eia_fuels_without_a_factor_are_named_and_too_many_of_them_are_a_gap(grid: GridServer) -> None:
    few = mixed(grid, ("2026-11-20T11", "NG", 950), ("2026-11-20T11", "OTH", 50))
    many = mixed(grid, ("2026-11-20T11", "NG", 500), ("2026-11-20T11", "OTH", 500))

    assert few.values[0].intensity_g_per_kwh == pytest.approx(0.97 * 453.59237)
    assert few.values[0].note == "without 5.0% of other fuels"
    assert reasons(many) == ["50% of the generation is of fuels without a published factor"]


def test_an_eia_hour_that_lacks_a_fuel_of_the_others_is_a_gap(grid: GridServer) -> None:
    answer = mixed(grid, ("2026-11-20T10", "COL", 5), ("2026-11-20T10", "NG", 5), ("2026-11-20T11", "NG", 5))

    assert reasons(answer) == ["no generation of COL for this hour"]


def test_eia_two_figures_for_one_fuel_are_a_gap_and_what_is_to_come_is_not_asked_for(grid: GridServer) -> None:
    answer = mixed(grid, ("2026-11-20T11", "NG", 5), ("2026-11-20T11", "COL", 5), ("2026-11-20T11", "COL", 6))
    assert reasons(answer) == ["two different values for the same time"]
    asked = len(grid.asked)

    future = provider(grid, "eia", "PJM").fetch("PJM", NOW, NOW + HOUR)

    assert reasons(future) == ["not over yet, and the source has no forecast"] and len(grid.asked) == asked


def test_eia_pages_are_read_to_the_last(grid: GridServer) -> None:
    grid.plays(eia([("2026-11-20T11", "NG", 5)], total=2), eia([("2026-11-20T12", "NG", 5)], total=2))
    start = datetime(2026, 11, 20, 10, tzinfo=UTC)

    answer = provider(grid, "eia", "PJM").fetch("PJM", start, start + 2 * HOUR)

    assert [asked.query["offset"] for asked in grid.asked] == ["0", "1"]
    assert len(answer.values) == 2 and answer.gaps == ()


def test_eia_gate_refuses_a_wrong_key_with_403(grid: GridServer) -> None:
    grid.plays(Reply({"error": {"code": "API_KEY_INVALID", "message": "no such key"}}, 403))

    with pytest.raises(UnauthorisedError, match="TRACKER_EIA_TOKEN"):
        provider(grid, "eia", "PJM").fetch("PJM", NOW - DAY, NOW)
