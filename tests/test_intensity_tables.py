"""The bundled intensities: every row passes the rules, and the rules catch the faults met in the sources."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tracker.intensity import tables
from tracker.intensity.tables import lookup, zones
from tracker.records import IntensityValue

SCRIPT = Path(__file__).parent.parent / "scripts" / "build_intensity_tables"
EMBER = "Ember yearly electricity data, Oct 2026 release"
VALUES = [row.value for row in zones().values() if row.value]
COUNTRY_COLUMNS = "alpha2,alpha3,name,gco2e_per_kwh,year,basis,accounting,source,licence,gco2e_2024_same_source,note"
SUBNATIONAL_COLUMNS = "scheme,code,name,country,gco2e_per_kwh,year,basis,accounting,source,licence,note"


@pytest.fixture(scope="module")
def build() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


def test_every_value_passes_the_rules_and_its_note_keeps_doubts_and_what_was_replaced(build: SimpleNamespace) -> None:
    def is_sound(value: IntensityValue) -> bool:
        assert value.year is not None
        refused = build.refusals(value.intensity_g_per_kwh, value.year, value.source, value.licence)
        doubts = build.doubts(value.intensity_g_per_kwh, value.year)
        is_replaced = value.raw_value != value.intensity_g_per_kwh
        return not refused and all(text in value.note for text in [*doubts, *[str(value.raw_value)] * is_replaced])

    assert len(VALUES) > 340
    assert [value for value in VALUES if not is_sound(value)] == []


def test_every_value_has_its_provenance() -> None:
    for value in VALUES:
        assert (value.provider, value.status, value.signal) == ("bundled", "static", "average"), value
        assert value.basis in ("lifecycle", "direct"), value
        assert all((value.accounting, value.dataset, value.source, value.licence, value.raw_unit)), value
        assert value.start is None and value.end is None, value


def test_every_zone_is_named_and_below_a_country_and_says_why_it_has_no_value() -> None:
    for row in zones().values():
        assert re.fullmatch(r"WORLD|[A-Z]{2}(-[A-Z0-9]{2,5})*", row.code), row
        assert row.name, row
        assert row.parent == ("" if "-" not in row.code else row.code[:2]), row
        assert not row.parent or row.parent in zones(), row
        assert row.value is not None or row.doubt, row


def test_no_code_or_alias_means_two_zones() -> None:
    names = [name for row in zones().values() for name in (row.code, *row.aliases)]

    assert len(names) == len(set(names))


def test_the_zones_that_the_project_promises_are_there() -> None:
    def below(parent: str, pattern: str) -> int:
        return sum(bool(re.fullmatch(f"{parent}-{pattern}", code)) for code in zones())

    assert below("US", "[A-Z]{2}") == 51
    assert below("US-EGRID", "[A-Z]{4}") == 27
    assert below("CA", "[A-Z]{2}") == 13
    assert below("CN", "[A-Z]{2}") == 30
    assert (below("SE", r"SE\d"), below("NO", r"NO\d")) == (4, 5)
    assert sum(row.value is not None and not row.parent for row in zones().values()) >= 210


# What the sources say, and what a table that copied them would ship.
@pytest.mark.parametrize(
    ("fault", "value", "year", "source", "licence"),
    [
        ("Costa Rica, negative", -36.4, 2025, EMBER, "CC-BY-4.0"),
        ("Kyrgyzstan, its neighbour's figure", 72.6, 2025, EMBER, "CC-BY-4.0"),
        ("Colombia, a jump", 190.1, 2025, EMBER, "CC-BY-4.0"),
        ("Uzbekistan, exactly 1000", 1000.0, 2025, EMBER, "CC-BY-4.0"),
        ("Turkmenistan, above any plant", 1306.2, 2024, EMBER, "CC-BY-4.0"),
        ("an unknown that became 0", 0.0, 2023, "EPA eGRID2023", "US public domain"),
        ("not a number", float("nan"), 2023, "EPA eGRID2023", "US public domain"),
        ("kg/kWh for g/kWh", 0.4, 2024, EMBER, "CC-BY-4.0"),
        ("lb/MWh for g/kWh", 1968.9, 2023, "EPA eGRID2023", "US public domain"),
        ("share-alike", 41.0, 2025, "Electricity Maps 2025", "ODbL-1.0"),
    ],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_a_known_fault_is_refused(
    build: SimpleNamespace, fault: str, value: float, year: int, source: str, licence: str
) -> None:
    assert build.refusals(value, year, source, licence)


@pytest.mark.parametrize(
    ("value", "year", "covered_percent", "said"),
    [
        (111.11, 2012, 100.0, "old"),
        (1000.0, 2023, 100.0, "round figure"),
        (1040.2, 2024, 100.0, "above 910"),
        (24.7, 2025, 85.05, "lower bound"),
    ],
)
def test_a_doubtful_value_is_shipped_with_its_doubt(
    build: SimpleNamespace, value: float, year: int, covered_percent: float, said: str
) -> None:
    assert build.refusals(value, year, "Our World in Data", "CC-BY-4.0") == []
    assert said in "; ".join(build.doubts(value, year, covered_percent))


def csv_text(columns: str, *rows: str) -> str:
    return "\n".join((columns, *rows)) + "\n"


def zoneinfo(folder: Path) -> Path:
    folder.mkdir()
    (folder / "iso3166.tab").write_text("# comment\nCR\tCosta Rica\nMC\tMonaco\n")
    (folder / "zone.tab").write_text("UA\t+5026+03031\tEurope/Kyiv\tmost of Ukraine\nCI\t+0519-00402\tAfrica/Abidjan\n")
    (folder / "tzdata.zi").write_text(
        "# version 2026test\nL Europe/Kyiv Europe/Kiev\nL Africa/Abidjan Iceland\nL Africa/Abidjan GMT\n"
    )
    return folder


def run_script(folder: Path, countries: str, subnational: str) -> subprocess.CompletedProcess[str]:
    (folder / "countries.csv").write_text(countries)
    (folder / "subnational.csv").write_text(subnational)
    arguments = ["countries.csv", "subnational.csv", "--zoneinfo", str(zoneinfo(folder / "zoneinfo")), "--out", "."]
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_the_script_deals_with_suspicious_rows_and_keeps_what_it_discards(tmp_path: Path) -> None:
    end = f'lifecycle,production,"{EMBER}",CC-BY-4.0'
    countries = csv_text(
        COUNTRY_COLUMNS,
        f"KG,KGZ,Kyrgyzstan,72.6,2025,{end},120.2,",
        COUNTRY_COLUMNS,
        f"TM,TKM,Turkmenistan,1306.2,2024,{end},,",
        "DE,DEU,Germany,342,2025,lifecycle,consumption,Electricity Maps,ODbL-1.0,,",
        f"FI,FIN,Finland,66.9,2024,{end},,",
        f",WLD,World,460.1,2025,{end},473.0,",
    )
    entsoe = "lifecycle,production,ENTSO-E A75,CC-BY-4.0"
    subnational = csv_text(
        SUBNATIONAL_COLUMNS,
        f"nordic-bidding-zone,FI,Finland,FI,72.0,2025,{entsoe},prior value",
        f"ca-province-derived,CA-AB,Alberta,CA,635.4,2023,{entsoe},gas is high",
    )

    assert run_script(tmp_path, countries, subnational).returncode == 0
    text = (tmp_path / "zones.csv").read_text()
    row = {line.split(",")[0]: line for line in text.splitlines()}

    assert ",120.2,2024," in row["KG"] and "not used: 72.6 (-40%, unexplained)" in row["KG"]
    assert "Turkmenistan,,TKM,,," in row["TM"] and "1306.2 g/kWh" in row["TM"]
    assert ",473.0,2024," in row["WORLD"]
    assert ",66.9," in row["FI"] and "72.0 (ENTSO-E A75, prior value) not used" in row["FI"]
    assert ",449.4," in row["CA-AB"] and "635.4 with gas at 743" in row["CA-AB"]
    assert "no source has a value" in row["MC"]
    assert "alpha2" not in row and "DE" not in row


def test_the_script_refuses_two_rows_of_one_code_and_a_conversion_that_does_not_close(tmp_path: Path) -> None:
    end = f'lifecycle,production,"{EMBER}",CC-BY-4.0'
    (tmp_path / "twice").mkdir()
    (tmp_path / "egrid").mkdir()
    epa = "direct,production,EPA eGRID2023 subregion,US public domain,CO2 only"

    twice = run_script(
        tmp_path / "twice",
        csv_text(COUNTRY_COLUMNS, *[f"KG,KGZ,Kyrgyzstan,120.2,2024,{end},,"] * 2),
        csv_text(SUBNATIONAL_COLUMNS),
    )
    unclosed = run_script(
        tmp_path / "egrid",
        csv_text(COUNTRY_COLUMNS),
        csv_text(SUBNATIONAL_COLUMNS, f"us-egrid-subregion,CAMX,WECC California,US,428.5,2023,{epa}"),
    )

    assert "the same code or alias twice: KG" in twice.stderr
    assert "CAMX is 428.5 g/kWh, but 428.5 lb/MWh by EPA" in unclosed.stderr


def test_time_zones_follow_old_names_but_not_to_another_country(tmp_path: Path) -> None:
    run_script(tmp_path, csv_text(COUNTRY_COLUMNS), csv_text(SUBNATIONAL_COLUMNS))

    lines = (tmp_path / "time_zones.csv").read_text().splitlines()

    assert lines[2:] == ["Africa/Abidjan,CI", "Europe/Kiev,UA", "Europe/Kyiv,UA", "Iceland,IS"]


def test_a_lookup_gives_the_value_with_its_provenance() -> None:
    value = lookup("US-CA")

    assert value is not None
    assert (value.zone, value.intensity_g_per_kwh, value.year, value.basis) == ("US-CA", 179.1, 2023, "direct")
    assert (value.raw_value, value.raw_unit) == (179.1, "gCO2e/kWh")
    assert value.dataset == "egrid2023-rev2-state"


def test_what_has_no_value_is_none_and_never_a_number() -> None:
    assert lookup("TM") is None
    assert lookup("XX") is None
    assert "1306.2 g/kWh" in zones()["TM"].doubt


def test_every_country_of_a_time_zone_is_a_zone() -> None:
    assert set(tables.countries_by_time_zone().values()) <= set(zones())
