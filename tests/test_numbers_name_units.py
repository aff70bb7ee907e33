"""Every number names its unit: in the records, in what they become as JSON, and in what public functions take."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime

import pytest

import tracker
from tracker import records

UNITS = ("s", "us", "ns", "w", "mw", "j", "uj", "nj", "kwh", "g", "kg", "g_per_kwh", "bytes")
UNIT_AT_END = re.compile(rf"_({'|'.join(UNITS)})$")

# Numbers without a unit, each agreed on here. Words that could also be times or amounts only where they are positions.
PURE = {
    *("id", "parent_id", "span_id", "device_index", "slot_value", "index", "decode_chunk.n"),
    *("DatabaseFound.run_files", "logical_cpus", "limit_cpus"),
    *("Total.runs", "Total.parts", "Total.runs_energy_unknown", "Total.runs_emissions_unknown"),
    *("settle.at", "settle.size", "page.limit", "page.offset", "page_of.limit", "page_of.offset", "Sums.parts"),
    *("DeviceFigures.devices", "PhaseFigures.spans", "PhaseFigures.beside", "PhaseFigures.energy_unknown"),
    *("UnitFigures.count", "reprice.batch_runs"),
    *("schema_version", "schema_version_written"),
    *("Contents.runs", "Contents.running", "Pruned.runs"),
    *("rank", "world_size", "launcher_pid", "ordinal", "attempt"),
    *("rule_of.code", "reason_of.code", "absence_of.code", "failed.code", "answered.code"),
    *("descriptor", "pid", "pid_start", "pid_namespace", "architecture", "version", "chunk_format", "year"),
    *("slots", "samples", "readings", "step", "tokens", "runs.limit", "runs.offset", "Tail.segment"),
    *("wraps", "resets", "implausible", "overlong", "frozen", "unanchored", "linear", "rejected", "conflicts"),
    *("pue", "coverage", "fraction", "duty", "loss"),
    *("part.start", "part.stop", "settle.start", "settle.stop", "sample_findings.start", "sample_findings.stop"),
    *("Stamps.first", "Stamps.last", "are_apart.begin", "are_apart.end"),
    *("width", "height", "columns"),  # of a terminal or a picture
    *("ratio.value", "ratio.reference", "saves_share", "Part.right_from", "Heading.level"),
    *("gpu_instance", "compute_instance", "compute_slices"),
    *("cpus", "machine_cpus", "quota_cpus", "set_cpus", "load", "range_factors"),
    *(
        "value_between",
        "write_pricing.seq",
        "NewPricing.seq",
        "Manners.failures",
        "failed.drawn",
    ),  # positions, counts, a draw
    *("Point.done", "Progress.done", "Progress.total", "progress_of.total", "Iteration.total", "expect.total"),
    *("iterate.total", "total_steps", "is_one_of.processes", "energy_j_per_unit", "emissions_g_per_unit"),
    *("application.port", "runs_page.offset", "runs_page.limit", "runs_page.count", "hot_of.segment", "rows.segment"),
    "run_blocks.level",
    *("Expected.low", "Expected.mean", "Expected.high", "Overrun.used", "Overrun.limit"),  # of the figure that is named
    *("cost", "cost_modelled", "cost_per_unit"),  # its currency stands beside it
    *("Total.runs_cost_unknown", "money.cost"),
    "raw_value",  # its unit stands beside it, in raw_unit
}
NUMBER = re.compile(r"(int|float|IntColumn|FloatColumn|tuple\[float, float\])( \| None)?")


def names_its_unit(name: str, owner: str = "") -> bool:
    return name in PURE or f"{owner}.{name}" in PURE or bool(UNIT_AT_END.search(name))


def is_number(annotation: object) -> bool:
    return bool(NUMBER.fullmatch(annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)))


def record_classes() -> list[type]:
    return [cls for _, cls in inspect.getmembers(records, is_dataclass) if cls.__module__ == records.__name__]


def modules() -> Iterator[object]:
    for module in pkgutil.walk_packages(tracker.__path__, "tracker."):
        if module.name != "tracker.__main__" and not module.name.startswith("tracker.migrations"):
            yield importlib.import_module(module.name)


def public_functions() -> Iterator[tuple[str, object]]:
    """Functions of our modules, and methods of their classes, whose names do not begin with an underscore."""
    for module in modules():
        for name, thing in inspect.getmembers(module):
            if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
                continue
            if inspect.isfunction(thing):
                yield f"{module.__name__}.{name}", thing
            elif inspect.isclass(thing):
                for method_name, method in inspect.getmembers(thing, inspect.isfunction):
                    if method_name == "__init__" or not method_name.startswith("_"):
                        yield f"{module.__name__}.{name}.{method_name}", method


def numeric_keys(value: object, path: str = "") -> Iterator[str]:
    """The path of every number within plain JSON types; the items of a list go by the list's name."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from numeric_keys(item, f"{path}.{key}")
    elif isinstance(value, list):
        for item in value:
            yield from numeric_keys(item, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path


@pytest.mark.parametrize("cls", record_classes(), ids=lambda cls: cls.__name__)
def test_every_number_in_a_record_names_its_unit(cls):
    numbers = [field.name for field in fields(cls) if is_number(field.type)]
    properties = [
        name
        for name, member in inspect.getmembers(cls, lambda m: isinstance(m, property))
        if is_number(inspect.get_annotations(member.fget).get("return"))
    ]

    assert [name for name in numbers + properties if not names_its_unit(name, cls.__name__)] == []


def test_every_number_in_the_json_of_a_run_names_its_unit():
    instant = datetime(2026, 11, 25, tzinfo=UTC)

    class Source:
        def samples(self, run_id):
            return ()

        def spans(self, run_id):
            return (records.Span(0, 0, "epoch", {"index": 1}, instant, instant, 1.0, 1.0, 1.0),)

        def marks(self, run_id):
            return (records.Mark(instant, 1.0, {}),)

        def notes(self, run_id):
            return []

    value = records.IntensityValue("FR", 56.0, "bundled", "", "static", year=2024, raw_value=56.0)
    run = records.Run(
        id="a",
        name=None,
        project=None,
        tags={},
        status="finished",
        started_at=instant,
        ended_at=instant,
        duration_s=1.0,
        energy_j=1.0,
        energy_modelled_j=1.0,
        emissions_g=1.0,
        emissions_modelled_g=1.0,
        pue=1.0,
        coverage=1.0,
        devices=(records.DeviceEnergy("gpu", "k", "n", "counter", 1.0, 1.0, 1.0, 1.0, (1.0, 1.0)),),
        intensity=(records.IntensityUse(value, "setting", 1.0, 1.0, 1),),
        energy_range_j=(1.0, 1.0),
        source=Source(),
    )

    paths = set(numeric_keys(run.to_dict()))

    assert {".energy_kwh", ".emissions_kg", ".devices.energy_range_j", ".spans.duration_s"} <= paths
    assert [path for path in sorted(paths - {".units.count"}) if not names_its_unit(path.rpartition(".")[2])] == []


def test_every_numeric_argument_of_a_public_function_names_its_unit():
    nameless = [
        f"{where}({argument}: {annotation})"
        for where, function in public_functions()
        for argument, annotation in inspect.get_annotations(function).items()
        if argument != "return" and not argument.startswith("_") and is_number(annotation)
        if not names_its_unit(argument, where.removesuffix(".__init__").rpartition(".")[2])
    ]

    assert nameless == []
