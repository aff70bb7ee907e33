"""Which provider serves a zone, and what of others is let in."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import dedent

import pytest
from grid_server import GridServer

from tracker.errors import NotServedError, OfflineError, ProviderError, SettingError, TemporaryError, UnbelievableError
from tracker.intensity.providers.plugins import plugin_names
from tracker.intensity.providers.registry import BUILTIN, provider_for

START = datetime(2026, 11, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)


def name_of(zone: str, *, named: str | None = None, **environ: str) -> str | None:
    choice = provider_for(zone, named=named, environ=environ)
    return None if choice is None else choice.provider.profile.name


@pytest.mark.parametrize("zone", ["GB", "FR", "DK-DK1", "DE", "US-MIDA-PJM", "WORLD"])
def test_without_a_name_a_token_or_a_file_there_is_no_provider(zone: str) -> None:
    assert name_of(zone) is None
    assert name_of(zone, TRACKER_NESO_URL="http://127.0.0.1:9") is None


def test_a_token_chooses_its_provider_where_it_serves_the_zone() -> None:
    assert name_of("FR", TRACKER_ELECTRICITYMAPS_TOKEN="t0ken") == "electricitymaps"
    assert name_of("US-MIDA-PJM", TRACKER_EIA_TOKEN="t0ken") == "eia"
    assert name_of("FR", TRACKER_EIA_TOKEN="t0ken") is None
    assert name_of("US-MIDA-PJM", TRACKER_EIA_TOKEN="t", TRACKER_ELECTRICITYMAPS_TOKEN="t") == "electricitymaps"


def test_marginal_and_average_do_not_stand_in_for_each_other() -> None:
    environ = {"TRACKER_WATTTIME_TOKEN": "me:pw", "TRACKER_ELECTRICITYMAPS_TOKEN": "t0ken"}

    average = provider_for("FR", environ=environ)
    marginal = provider_for("CAISO_NORTH", signal="marginal", environ=environ)

    assert average is not None and average.provider.profile.signal == "average"
    assert marginal is not None and marginal.provider.profile.name == "watttime"
    assert name_of("FR", TRACKER_WATTTIME_TOKEN="me:pw") is None


@pytest.mark.parametrize(
    ("zone", "name"),
    [("GB", "neso"), ("GB-RG10", "neso"), ("FR", "odre"), ("DK-DK2", "energidataservice"), ("DE", None)],
)
def test_auto_is_the_operator_of_the_zone_and_never_one_whose_licence_is_in_doubt(zone: str, name: str | None) -> None:
    assert name_of(zone, named="auto") == name


def test_a_name_may_carry_the_providers_own_code() -> None:
    choice = provider_for("US-CA", named="WattTime:CAISO_NORTH", environ={})

    assert choice is not None
    assert (choice.provider.profile.name, choice.zone) == ("watttime", "CAISO_NORTH")


def test_a_name_that_does_not_serve_the_zone_or_is_nobodys_is_refused_with_what_there_is() -> None:
    with pytest.raises(NotServedError, match=r"NESO .*does not serve zone 'FR'; it serves GB"):
        name_of("FR", named="neso")
    with pytest.raises(SettingError, match=r"'neos'; there are neso, odre, .*auto"):
        name_of("GB", named="neos")


def test_a_file_comes_before_all_others(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("start,end,g_per_kwh\n2026-11-25T00:00Z,2026-11-26T00:00Z,12\n")

    choice = provider_for("FR", named="odre", intensity_file=path, environ={"TRACKER_ELECTRICITYMAPS_TOKEN": "t"})

    assert choice is not None and choice.provider.profile.name == "file"


def test_every_request_of_every_provider_can_be_counted(grid: GridServer) -> None:
    counted = []
    for name, zone in (("neso", "GB"), ("watttime", "CAISO_NORTH"), ("eia", "PJM")):
        environ = {f"TRACKER_{name.upper()}_URL": grid.url, f"TRACKER_{name.upper()}_TOKEN": "me:pw12"}
        choice = provider_for(zone, named=name, environ=environ, before_request=lambda: counted.append(1))
        assert choice is not None
        with pytest.raises(ProviderError):
            choice.provider.fetch(zone, START, START + HOUR)

    assert len(counted) == len(grid.asked) > 0


def test_every_builtin_says_what_a_user_must_know() -> None:
    for name, entry in BUILTIN.items():
        profile = entry.profile
        assert (profile.name, entry.default_url.startswith("https://")) == (name, True)
        assert all((profile.title, profile.serves, profile.licence, profile.accounting, profile.offers))
        assert name.isalnum() and name.islower()


PLUGIN = """
    from datetime import timedelta
    from dataclasses import replace
    from tracker.intensity.providers.protocol import Answer, Gap, Profile
    from tracker.records import IntensityValue

    HOUR = timedelta(hours=1)

    class Mine:
        profile = Profile("mine", "Mine", "all", frozenset({"history"}), "average", "direct", "production", "ours",
                          False, True, 60.0, None)

        def __init__(self, access):
            self.access = access

        def code_of(self, zone):
            return None if zone == "DE" else zone

        def fetch(self, zone, start, end):
            def value(first, grams):
                return IntensityValue(zone, grams, "mine", "d", "final", start=first, end=first + HOUR)

            kind = self.access.token
            if kind == "raise":
                raise KeyError("their mistake")
            if kind == "none":
                return None
            if kind == "overlap":
                return Answer((value(start, 1.0), value(start, 2.0)))
            if kind == "nan":
                return Answer((value(start, float("nan")),))
            if kind == "naive":
                return Answer((replace(value(start, 1.0), start=start.replace(tzinfo=None)),))
            if kind == "zone":
                return Answer((replace(value(start, 1.0), zone="XX"),))
            if kind == "marginal":
                return Answer((replace(value(start, 1.0), signal="marginal"),))
            return Answer((value(start - 2 * HOUR, 9.0), value(start, 1.0)), warnings=("mind",))

    def broken(access):
        raise RuntimeError("no")
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A distribution of somebody else's with two entry points."""
    (tmp_path / "someones_plugin.py").write_text(dedent(PLUGIN))
    info = tmp_path / "someones_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: someones-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[tracker.intensity_providers]\nmine = someones_plugin:Mine\nbroken = someones_plugin:broken\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("someones_plugin", None)


def fetched_from_plugin(kind: str, **more: bool):
    choice = provider_for("FR", named="mine", environ={"TRACKER_MINE_TOKEN": kind}, **more)
    assert choice is not None
    return choice.provider.fetch("FR", START, START + 2 * HOUR)


@pytest.mark.usefixtures("plugins")
def test_a_plugin_is_known_by_its_name_and_imported_only_when_it_is_named() -> None:
    assert plugin_names() == ("broken", "mine")
    assert name_of("FR", TRACKER_MINE_TOKEN="t0ken") is None
    assert "someones_plugin" not in sys.modules

    answer = fetched_from_plugin("good")

    assert [value.intensity_g_per_kwh for value in answer.values] == [1.0]
    assert [(gap.start, gap.reason) for gap in answer.gaps] == [(START + HOUR, "no value in the answer")]
    assert answer.warnings == ("mind",)
    with pytest.raises(NotServedError):
        name_of("DE", named="mine")


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("kind", ["overlap", "nan", "naive", "zone", "marginal"])
def test_what_a_plugin_answers_is_not_believed_unseen(kind: str) -> None:
    with pytest.raises(UnbelievableError, match=r"^Mine: "):
        fetched_from_plugin(kind)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("kind", ["raise", "none"])
def test_what_a_plugin_raises_is_an_error_of_ours(kind: str) -> None:
    with pytest.raises(TemporaryError, match=r"^Mine: failed \((KeyError|AttributeError)\)"):
        fetched_from_plugin(kind)


@pytest.mark.usefixtures("plugins")
def test_a_plugin_that_cannot_be_loaded_or_would_go_out_offline_is_refused() -> None:
    with pytest.raises(SettingError, match=r"broken: .*cannot be loaded \(RuntimeError\)"):
        name_of("FR", named="broken")
    with pytest.raises(OfflineError):
        fetched_from_plugin("good", offline=True)
