"""Zones as people write them, the system time zone's country, and which intensity is chosen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tracker.errors import SettingError, UnknownZoneError
from tracker.intensity.choice import choose
from tracker.intensity.tables import cloud_regions, zones
from tracker.intensity.zone import country_of, resolve, system_zone


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("FR", "FR"),
        ("fr", "FR"),
        ("FRA", "FR"),
        (" france ", "FR"),
        ("UK", "GB"),
        ("US-CA", "US-CA"),
        ("us-ca", "US-CA"),
        ("california", "US-CA"),
        ("New  York", "US-NY"),
        ("CA-QC", "CA-QC"),
        ("CN-BJ", "CN-BJ"),
        ("CN-HK", "HK"),
        ("US-PR", "PR"),
        ("SE3", "SE-SE3"),
        ("SE-SE3", "SE-SE3"),
        ("CAMX", "US-EGRID-CAMX"),
        ("Cote d’Ivoire", "CI"),
        ("Turkey", "TR"),
        ("Kosovo", "XK"),
        ("world", "WORLD"),
        ("DE-BY", "DE-BY"),
        ("US-CAL-CISO", "US-CAL-CISO"),
    ],
)
def test_a_zone_is_known_by_code_in_any_case_alpha_3_or_name(text: str, code: str) -> None:
    place = resolve(text, "argument zone")

    assert (place.zone, place.origin, place.detail) == (code, "setting", "argument zone")


@pytest.mark.parametrize(
    ("text", "country"),
    [("CA", "Canada"), ("GA", "Gabon"), ("DE", "Germany"), ("IN", "India"), ("AL", "Albania"), ("CO", "Colombia")],
)
def test_two_letters_are_a_country_and_never_a_state(text: str, country: str) -> None:
    assert resolve(text, "argument zone").name == country


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("TX", "US-TX"),
        ("QC", "CA-QC"),
        ("germny", "DE"),
        ("Georgia", "US-GA"),
        ("Georgia", "GE"),
        ("congo", "CD"),
        ("korea", "KR"),
        ("US-XX", "US-TX"),
        ("US_CA", "US-CA"),
    ],
)
def test_an_unknown_or_ambiguous_zone_names_what_where_and_the_near(text: str, near: str) -> None:
    with pytest.raises(UnknownZoneError) as caught:
        resolve(text, "TRACKER_ZONE")

    assert str(caught.value).startswith("TRACKER_ZONE: ")
    assert repr(text) in str(caught.value)
    assert caught.value.zone == text
    assert near in caught.value.near
    assert near in str(caught.value)


@pytest.mark.parametrize("text", ["", " ", "ZZ", "ZZ-AB", "x\0y", "A" * 10_000, "\ud800", "48.85,2.35", "FR\nUS"])
def test_what_is_no_zone_is_refused_with_what_to_give(text: str) -> None:
    with pytest.raises(UnknownZoneError, match='give a country \\("FR"'):
        resolve(text, "argument zone")


@pytest.mark.parametrize(
    ("zone", "country"),
    [("US-EGRID-CAMX", "US"), ("DE-BY", "DE"), ("SE-SE3", "SE"), ("FR", "FR"), ("WORLD", "WORLD")],
)
def test_a_zone_lies_in_its_country(zone: str, country: str) -> None:
    assert country_of(zone) == country


@pytest.mark.parametrize(
    ("tz", "country"),
    [
        ("Europe/Paris", "FR"),
        (":Europe/Paris", "FR"),
        ("/usr/share/zoneinfo/Europe/Paris", "FR"),
        (":/usr/share/zoneinfo/posix/Asia/Tokyo", "JP"),
        ("US/Pacific", "US"),
        ("Asia/Calcutta", "IN"),
        ("Europe/Kiev", "UA"),
        ("Europe/Oslo", "NO"),
        ("Iceland", "IS"),
        ("America/Coral_Harbour", "CA"),
        ("Europe/Busingen", "DE"),
    ],
)
def test_the_time_zone_in_tz_says_the_country(tz: str, country: str, tmp_path: Path) -> None:
    place = system_zone({"TZ": tz}, tmp_path)

    assert place is not None
    assert (place.zone, place.origin) == (country, "guessed")


@pytest.mark.parametrize(
    "tz",
    ["", "UTC", "Etc/UTC", "GMT", "EST", "EST5EDT", "CET", "CET-1CEST,M3.5.0,M10.5.0/3", "<+03>-3", "/etc/localtime"],
)
def test_a_time_zone_that_is_no_place_says_none_and_tz_is_the_last_word(tz: str, tmp_path: Path) -> None:
    link_localtime(tmp_path, "/usr/share/zoneinfo/Europe/Paris")

    assert system_zone({"TZ": tz}, tmp_path) is None


def link_localtime(root: Path, target: str) -> None:
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc" / "localtime").symlink_to(target)


@pytest.mark.parametrize(
    "target",
    [
        "/usr/share/zoneinfo/Europe/Paris",
        "../usr/share/zoneinfo/Europe/Paris",
        "/var/db/timezone/zoneinfo/Europe/Paris",
    ],
)
def test_without_tz_the_link_localtime_says_the_country(target: str, tmp_path: Path) -> None:
    link_localtime(tmp_path, target)
    (tmp_path / "etc" / "timezone").write_text("Etc/UTC\n")

    place = system_zone({}, tmp_path)

    assert place is not None
    assert (place.zone, place.name, place.detail) == ("FR", "France", "time zone Europe/Paris")


def test_beside_a_copied_localtime_the_file_timezone_says_the_country(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "localtime").write_bytes(b"TZif2")
    (tmp_path / "etc" / "timezone").write_text("Asia/Kolkata\n")

    place = system_zone({}, tmp_path)

    assert place is not None and place.zone == "IN"


def test_a_system_without_a_readable_time_zone_says_none(tmp_path: Path) -> None:
    assert system_zone({}, tmp_path) is None
    (tmp_path / "etc" / "timezone").mkdir(parents=True)
    assert system_zone({}, tmp_path) is None
    (tmp_path / "etc" / "timezone").rmdir()
    (tmp_path / "etc" / "timezone").write_bytes(b"\xff\xfe\0")
    assert system_zone({}, tmp_path) is None


def test_the_users_own_value_comes_first(tmp_path: Path) -> None:
    choice = choose(230.0, "FR", environ={}, root=tmp_path, intensity_origin="TRACKER_INTENSITY")

    assert choice.zone is not None and choice.zone.zone == "FR"
    value = choice.value
    assert (value.intensity_g_per_kwh, value.zone, value.provider, value.status) == (230.0, "FR", "user", "static")
    assert (value.accounting, value.source, choice.warnings) == ("user", "TRACKER_INTENSITY", ())


def test_a_users_own_value_needs_no_zone_and_none_is_guessed() -> None:
    choice = choose(0, None, environ={"TZ": "Europe/Paris"})

    assert (choice.zone, choice.value.zone, choice.value.intensity_g_per_kwh) == (None, "", 0.0)
    assert choice.warnings == ()


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
def test_a_users_value_that_is_no_intensity_is_refused(wrong: float) -> None:
    with pytest.raises(SettingError, match="TRACKER_INTENSITY: an intensity is 0 g/kWh or more"):
        choose(wrong, "FR", environ={}, intensity_origin="TRACKER_INTENSITY")


@pytest.mark.parametrize(("suspicious", "said"), [(0.4, "if it is in kg/kWh, give 400"), (40_300.0, "g/MWh")])
def test_a_users_value_of_a_strange_size_is_taken_and_questioned(suspicious: float, said: str) -> None:
    choice = choose(suspicious, "FR", environ={})

    assert choice.value.intensity_g_per_kwh == suspicious
    (warning,) = choice.warnings
    assert said in warning


def test_the_zones_bundled_value_is_used_in_silence() -> None:
    choice = choose(None, "US-CA", environ={"TZ": "Europe/Paris"})

    assert (choice.value.zone, choice.value.provider, choice.warnings) == ("US-CA", "bundled", ())


def test_a_sub_national_zone_without_a_value_takes_its_countrys_and_says_so() -> None:
    choice = choose(None, "DE-BY", environ={})

    assert choice.zone is not None
    assert (choice.zone.zone, choice.value.zone) == ("DE-BY", "DE")
    (warning,) = choice.warnings
    assert "zone DE-BY: no bundled value" in warning and "that of Germany, 339.9 g/kWh of 2024" in warning


def test_a_country_whose_value_was_refused_takes_the_worlds_and_says_why() -> None:
    choice = choose(None, "TM", environ={})

    assert choice.value.zone == "WORLD"
    (warning,) = choice.warnings
    assert "1306.2" in warning and "the world average, 473 g/kWh" in warning


def test_a_doubtful_value_is_used_with_its_doubt() -> None:
    (warning,) = choose(None, "EH", environ={}).warnings

    assert "doubtful (old: a value of 2009)" in warning


def test_without_a_zone_the_system_time_zones_country_is_used_and_called_a_guess() -> None:
    choice = choose(None, None, environ={"TZ": "Europe/Paris"})

    assert choice.zone is not None
    assert (choice.zone.zone, choice.zone.origin, choice.value.zone) == ("FR", "guessed", "FR")
    (warning,) = choice.warnings
    assert "FR (France) was guessed from the time zone Europe/Paris" in warning and "TRACKER_ZONE" in warning


def test_without_any_place_the_world_average_is_used_with_a_warning() -> None:
    choice = choose(None, None, environ={"TZ": "UTC"})

    assert choice.zone is not None
    assert (choice.zone.origin, choice.value.zone, choice.value.intensity_g_per_kwh) == ("world", "WORLD", 473.0)
    (warning,) = choice.warnings
    assert "no zone: the world average" in warning and "TRACKER_ZONE" in warning


def test_the_world_average_asked_for_needs_no_warning() -> None:
    choice = choose(None, "WORLD", environ={})

    assert (choice.value.zone, choice.warnings) == ("WORLD", ())


def test_a_wrong_zone_is_refused_even_beside_a_value_of_the_users_own() -> None:
    with pytest.raises(UnknownZoneError):
        choose(230.0, "Atlantis", environ={})


@pytest.mark.parametrize(
    ("text", "country", "location"),
    [
        ("aws:eu-west-3", "FR", "Paris"),
        ("AWS: eu-west-3 ", "FR", "Paris"),
        ("amazon:us-east-2", "US", "Ohio"),
        ("gcp:europe-west9", "FR", "Paris"),
        ("google:us-east4", "US", "Ashburn, Northern Virginia"),
        ("azure:francecentral", "FR", "France Central"),
    ],
)
def test_a_cloud_region_is_its_country_and_the_record_says_which_it_was(text, country, location):
    choice = resolve(text, "TRACKER_ZONE")
    assert (choice.zone, choice.origin) == (country, "setting")
    assert choice.detail.startswith("TRACKER_ZONE: ") and location in choice.detail


@pytest.mark.parametrize("text", ["aws:eu-west-33", "aws:", ":", "cloud9:eu-west-3", "aws:eu west 3"])
def test_an_unknown_cloud_region_is_refused_with_what_it_may_have_meant(text):
    with pytest.raises(UnknownZoneError, match="no cloud region") as caught:
        resolve(text, "argument zone")
    assert ("aws:eu-west-3" in caught.value.near) == text.startswith("aws:eu")
    assert caught.value.near or "OPERATOR:REGION" in str(caught.value)


def test_every_cloud_region_lies_in_a_country_with_a_row():
    assert len(cloud_regions()) == 159
    assert all(region.country in zones() for region in cloud_regions().values())
