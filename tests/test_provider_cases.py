"""Faults that users of grid APIs reported, each from the answer to the grams."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from grid_server import GridServer, Reply

from tracker.emissions import SLOT_S, SlotEnergies, price
from tracker.errors import ProviderError, TemporaryError, UnauthorisedError, UnbelievableError
from tracker.intensity.providers.protocol import Answer
from tracker.intensity.providers.registry import ProviderChoice, provider_for
from tracker.records import Slot
from tracker.units import NANOJOULES_PER_J


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def priced(answer: Answer, power_w: int, start: str, end: str) -> tuple[float | None, float]:
    """Grams of a load, and the joules that no value prices."""
    first, stop = at(start), at(end)
    edges = range(int(first.timestamp()), int(stop.timestamp()), SLOT_S)
    slots = [Slot(0, edge, 2 * power_w * SLOT_S * NANOJOULES_PER_J, SLOT_S * 1_000_000, None) for edge in edges]
    found = price(SlotEnergies.of(slots), answer.values)
    return found.emissions_g, found.unpriced_energy_j


def electricity_maps(grid: GridServer, zone: str, now: str, token: str = "test-token-not-real") -> ProviderChoice:
    environ = {"TRACKER_ELECTRICITYMAPS_URL": grid.url, "TRACKER_ELECTRICITYMAPS_TOKEN": token}
    choice = provider_for(zone, environ=environ, now=lambda: at(now))
    assert choice is not None
    return choice


def hour(zone: str, start: str, grams: float | None, **more: Any) -> Mapping[str, Any]:
    return {
        "zone": zone,
        "carbonIntensity": grams,
        "datetime": start,
        "updatedAt": start,
        "createdAt": start,
        "emissionFactorType": "lifecycle",
        "isEstimated": True,
        "estimationMethod": "MODE_BREAKDOWN",
        **more,
    }


def history(zone: str, *hours: Mapping[str, Any]) -> dict[str, Any]:
    return {"zone": zone, "history": list(hours)}


def test_a_null_hour_is_unpriced_and_stated_never_0_or_minus_1(grid: GridServer) -> None:
    day = "2024-09-30T"
    hours = [hour("JP-KN", f"{day}{at_hour}:00:00.000Z", grams) for at_hour, grams in
             (("09", 355), ("10", None), ("11", 396), ("12", 391))]  # fmt: skip
    grid.plays(history("JP-KN", *hours), path="/v3/carbon-intensity/history")
    choice = electricity_maps(grid, "JP-KN", f"{day}12:40Z")

    answer = choice.provider.fetch("JP-KN", at(f"{day}09:30Z"), at(f"{day}12:30Z"))

    assert priced(answer, 1000, f"{day}09:30Z", f"{day}12:30Z") == (pytest.approx(769.0), 3_600_000.0)
    assert [(gap.start, gap.end) for gap in answer.gaps] == [(at(f"{day}10:00Z"), at(f"{day}11:00Z"))]
    assert "null" in answer.gaps[0].reason


def test_a_web_page_an_empty_body_and_a_list_are_each_refused_by_name(grid: GridServer) -> None:
    grid.plays(Reply("<!DOCTYPE html><html></html>", content_type="text/html; charset=utf-8"), Reply(""), Reply("[]"))
    choice = electricity_maps(grid, "DE", "2025-03-01T10:30Z")

    said = []
    for _ in range(3):
        with pytest.raises(UnbelievableError) as caught:
            choice.provider.fetch("DE", at("2025-03-01T10:00Z"), at("2025-03-01T10:30Z"))
        said.append(str(caught.value))

    assert "a web page" in said[0] and "not JSON" in said[1] and "a list" in said[2]


def test_a_refused_token_is_one_request_and_is_not_shown(grid: GridServer) -> None:
    grid.plays(Reply({"error": "Invalid auth-token"}, 401))
    choice = electricity_maps(grid, "US-CAL-CISO", "2025-03-01T10:30Z", token="test-token-not-real")

    with pytest.raises(UnauthorisedError, match="TRACKER_ELECTRICITYMAPS_TOKEN") as caught:
        choice.provider.fetch("US-CAL-CISO", at("2025-03-01T10:00Z"), at("2025-03-01T11:00Z"))

    assert len(grid.asked) == 1
    assert "test-token" not in str(caught.value) + repr(choice)


def test_after_two_failures_the_value_is_there_and_prices_the_run(grid: GridServer) -> None:
    error = {"error": {"code": "500 Internal Server Error", "message": "Requested resource not found."}}
    good = hour("GB", "2025-01-13T10:00:00.000Z", 250, isEstimated=False, estimationMethod=None)
    grid.plays(Reply(error, 500), Reply("Service Unavailable", 503, "text/plain"), dict(good))
    choice = electricity_maps(grid, "GB", "2025-01-13T10:30Z")
    start, end = "2025-01-13T10:00Z", "2025-01-13T10:30Z"

    for _ in range(2):
        with pytest.raises(TemporaryError):
            choice.provider.fetch("GB", at(start), at(end))
    answer = choice.provider.fetch("GB", at(start), at(end))

    assert priced(answer, 1000, start, end) == (pytest.approx(125.0), 0.0)


def test_an_empty_history_is_no_value_with_its_reason(grid: GridServer) -> None:
    grid.plays({"zone": "HR", "history": [], "data": []})
    choice = electricity_maps(grid, "HR", "2025-02-01T01:10Z")
    start, end = "2025-02-01T00:00Z", "2025-02-01T01:00Z"

    answer = choice.provider.fetch("HR", at(start), at(end))

    assert answer.values == ()
    assert [(gap.start, gap.end, gap.reason) for gap in answer.gaps] == [(at(start), at(end), "no value in the answer")]
    assert priced(answer, 1000, start, end) == (None, 3_600_000.0)


def test_the_hour_that_comes_twice_is_two_hours(tmp_path: Path) -> None:
    path = tmp_path / "series.json"
    path.write_text(
        json.dumps(
            [
                {"datetime": "2024-10-27T02:00:00+02:00", "g_per_kwh": 300},
                {"datetime": "2024-10-27T02:00:00+01:00", "g_per_kwh": 200},
                {"datetime": "2024-10-27T03:00:00+01:00", "g_per_kwh": 100},
            ]
        )
    )
    start, end = "2024-10-27T00:30Z", "2024-10-27T02:30Z"
    choice = provider_for("NL", intensity_file=path, environ={})
    assert choice is not None

    answer = choice.provider.fetch("NL", at(start), at(end))

    assert priced(answer, 1000, start, end) == (pytest.approx(400.0), 0.0)
    assert [value.start for value in answer.values] == [at(f"2024-10-27T0{number}:00Z") for number in range(3)]


def test_pounds_per_megawatt_hour_are_grams_per_kilowatt_hour_and_stay_marginal(grid: GridServer) -> None:
    meta = {
        "data_point_period_seconds": 300,
        "region": "CAISO_NORTH",
        "signal_type": "co2_moer",
        "units": "lbs_co2_per_mwh",
        "warnings": [],
    }
    grid.plays({"token": "login-not-real"}, path="/login")
    grid.plays({"data": [{"point_time": "2024-07-15T10:00:00+00:00", "value": 870.0}], "meta": meta}, path="/v3")
    environ = {"TRACKER_WATTTIME_URL": grid.url, "TRACKER_WATTTIME_TOKEN": "me:not-real"}
    choice = provider_for("US-CA", named="watttime:CAISO_NORTH", environ=environ)
    assert choice is not None

    answer = choice.provider.fetch(choice.zone, at("2024-07-15T10:00Z"), at("2024-07-15T10:05Z"))

    (value,) = answer.values
    assert value.intensity_g_per_kwh == pytest.approx(394.62536190000003, rel=1e-12)
    assert (value.raw_value, value.raw_unit, value.signal) == (870.0, "lbs_co2_per_mwh", "marginal")
    grams, _ = priced(answer, 24_000, "2024-07-15T10:00Z", "2024-07-15T10:05Z")  # 2 kWh
    assert grams == pytest.approx(789.251, abs=5e-4)


def test_a_run_over_the_full_hour_is_priced_with_both_hours(grid: GridServer) -> None:
    first, second = (hour("DE", f"2025-03-01T{number}:00:00.000Z", grams, isEstimated=False, estimationMethod=None)
                     for number, grams in ((10, 100), (11, 400)))  # fmt: skip
    grid.plays(history("DE", first, second), path="/v3/carbon-intensity/history")
    choice = electricity_maps(grid, "DE", "2025-03-01T11:15Z")
    start, end = "2025-03-01T10:50Z", "2025-03-01T11:10Z"

    answer = choice.provider.fetch("DE", at(start), at(end))

    assert priced(answer, 3000, start, end) == (pytest.approx(250.0), 0.0)
    assert [value.status for value in answer.values] == ["provisional", "estimated"]  # the second hour is under way


@pytest.mark.parametrize("mark", [{"estimationMethod": "SANDBOX_MODE_DATA"}, {"_disclaimer": "Sandbox data"}])
def test_the_made_up_data_of_a_sandbox_token_is_refused(grid: GridServer, mark: Mapping[str, str]) -> None:
    grid.plays({**hour("DE", "2025-03-01T10:00:00.000Z", 100), **mark})
    choice = electricity_maps(grid, "DE", "2025-03-01T10:30Z")

    with pytest.raises(UnbelievableError, match="sandbox token"):
        choice.provider.fetch("DE", at("2025-03-01T10:00Z"), at("2025-03-01T10:30Z"))


@pytest.mark.parametrize("zone", ["CA-QC", None])
def test_another_zone_than_the_one_asked_for_is_refused(grid: GridServer, zone: str | None) -> None:
    """An unknown zone was answered with that of the caller's address."""
    grid.plays({**hour("DE", "2025-03-01T10:00:00.000Z", 100), "zone": zone})
    choice = electricity_maps(grid, "DE", "2025-03-01T10:30Z")

    with pytest.raises(ProviderError, match="asked for zone DE"):
        choice.provider.fetch("DE", at("2025-03-01T10:00Z"), at("2025-03-01T10:30Z"))

    assert grid.asked[0].query["shouldUseFallbackCallerLookup"] == "false"


@pytest.mark.parametrize(
    ("day", "next_day", "hours"), [("2026-10-25", "2026-10-26", 25), ("2026-03-29", "2026-03-30", 23)]
)
def test_a_day_of_25_hours_and_one_of_23_have_as_many_values(
    grid: GridServer, day: str, next_day: str, hours: int
) -> None:
    paris = ZoneInfo("Europe/Paris")
    start, end = (datetime.fromisoformat(text).replace(tzinfo=paris).astimezone(UTC) for text in (day, next_day))
    times = [(start + timedelta(minutes=30 * n)).astimezone(paris).isoformat() for n in range(2 * hours)]
    grid.plays({"results": [{"date_heure": time, "taux_co2": 20 + n} for n, time in enumerate(times)]})
    choice = provider_for("FR", named="odre", environ={"TRACKER_ODRE_URL": grid.url}, now=lambda: end)
    assert choice is not None

    answer = choice.provider.fetch("FR", start, end)

    assert [value.intensity_g_per_kwh for value in answer.values] == [20.0 + n for n in range(2 * hours)]
    assert answer.gaps == ()


def test_zones_whose_clock_is_off_by_half_an_hour_keep_their_steps(grid: GridServer) -> None:
    hours = (hour("IN-NO", "2026-05-01T10:00:00+05:30", 650), hour("IN-NO", "2026-05-01T05:30Z", 640))
    grid.plays(history("IN-NO", *hours))
    choice = electricity_maps(grid, "IN-NO", "2026-05-01T06:40Z")

    answer = choice.provider.fetch("IN-NO", at("2026-05-01T05:00Z"), at("2026-05-01T06:30Z"))

    assert [value.start for value in answer.values] == [at("2026-05-01T04:30Z"), at("2026-05-01T05:30Z")]
    assert answer.gaps == ()
