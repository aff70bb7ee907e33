"""A recorded trace in place of hardware."""

import contextlib
import gzip
import importlib.machinery
import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.errors import TraceError
from tracker.records import Reading
from tracker.sensors.replay import ReplaySensor

S = 1_000_000
ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "tracker" / "sensors" / "data" / "trace_8gpu.csv.gz"

TRACE = """\
# recorded somewhere
t_s,kind,key,name,power_w,counter_j
10,gpu,GPU-1,NVIDIA H100,100,5000
10,dram,intel-rapl:0:0,DRAM,20,
12,gpu,GPU-1,NVIDIA H100,300,5200
12,dram,intel-rapl:0:0,DRAM,,
14,gpu,GPU-1,NVIDIA H100,300,5800
14,dram,intel-rapl:0:0,DRAM,22,
"""


class Clock:
    def __init__(self) -> None:
        self.t_us = 1_000 * S

    def __call__(self) -> int:
        return self.t_us


def written(folder: Path, text: str | bytes, name: str = "trace.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


class Playing:
    """A trace being played, and a clock to move."""

    def __init__(self, path: Path) -> None:
        self.clock = Clock()
        self.sensor = ReplaySensor(path, clock_us=self.clock)
        self.inventory = self.sensor.open()

    def at(self, elapsed_s: float) -> dict[str, Reading]:
        self.clock.t_us = 1_000 * S + round(elapsed_s * S)
        keys = (device.key for device in self.inventory.devices)
        return dict(zip(keys, self.sensor.read(self.inventory.devices), strict=True))


def test_power_is_that_of_the_last_row_and_the_counter_runs_between_rows(tmp_path: Path) -> None:
    playing = Playing(written(tmp_path, TRACE))

    readings = [playing.at(elapsed_s)["GPU-1"] for elapsed_s in (0, 0.5, 2, 3.999999, 4)]

    assert [reading.t_us - 1_000 * S for reading in readings] == [0, 500_000, 2 * S, 3_999_999, 4 * S]
    assert [reading.power_mw for reading in readings] == [100_000, 100_000, 300_000, 300_000, 300_000]
    assert [reading.counter_uj for reading in readings] == [5000 * S, 5050 * S, 5200 * S, 5799_999_700, 5800 * S]


def test_an_empty_cell_is_unknown(tmp_path: Path) -> None:
    playing = Playing(written(tmp_path, TRACE))

    readings = [playing.at(elapsed_s)["intel-rapl:0:0"] for elapsed_s in (1, 2, 3, 4)]

    assert [reading.power_mw for reading in readings] == [20_000, None, None, 22_000]
    assert {reading.counter_uj for reading in readings} == {None}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(instants_s=st.lists(st.floats(0, 100, allow_nan=False), min_size=2))
def test_the_counter_goes_on_when_the_trace_begins_anew(tmp_path: Path, instants_s: list[float]) -> None:
    playing = Playing(written(tmp_path, TRACE))

    counters_uj = [playing.at(elapsed_s)["GPU-1"].counter_uj or 0 for elapsed_s in sorted(instants_s)]

    assert all(later >= earlier for earlier, later in pairwise(counters_uj))
    assert counters_uj[-1] == pytest.approx(5000 * S + whole_energy_j(max(instants_s)) * S, abs=500)


def whole_energy_j(elapsed_s: float) -> float:
    passes, into_s = divmod(elapsed_s, 4)
    return 800 * passes + 100 * min(into_s, 2) + 300 * max(0, into_s - 2)


def test_a_device_gives_nothing_outside_its_own_rows(tmp_path: Path) -> None:
    text = "t_s,key,power_w,counter_j\n0,a,1,1\n10,a,1,1\n2,b,5,1\n8,b,5,1\n"
    playing = Playing(written(tmp_path, text))

    readings = [playing.at(elapsed_s)["b"] for elapsed_s in (1, 2, 8, 9, 13)]

    assert [reading.power_mw for reading in readings] == [None, 5_000, 5_000, None, 5_000]
    assert [reading.counter_uj for reading in readings] == [None, S, S, None, S]


def test_one_row_is_a_trace_that_stands_still(tmp_path: Path) -> None:
    playing = Playing(written(tmp_path, "t_s,key,power_w\n3,a,60\n"))

    assert playing.at(0)["a"].power_mw == playing.at(500)["a"].power_mw == 60_000


def test_playing_starts_again_with_each_open(tmp_path: Path) -> None:
    playing = Playing(written(tmp_path, TRACE))
    first = playing.at(0)["GPU-1"].counter_uj
    playing.at(3)

    playing.sensor.open()

    assert playing.sensor.read(playing.inventory.devices)[0].counter_uj == first


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (TRACE, "replayed from trace.csv"),
        (TRACE.replace("# recorded", "# SYNTHETIC: recorded"), "replayed from trace.csv (synthetic)"),
    ],
)
def test_every_device_says_that_it_is_replayed_and_from_what(tmp_path: Path, text: str, note: str) -> None:
    gpu, dram = Playing(written(tmp_path, text)).inventory.devices

    assert (gpu.kind, gpu.key, gpu.name, gpu.sensor) == ("gpu", "GPU-1", "NVIDIA H100", "replay")
    assert (gpu.has_counter, gpu.has_power, dram.has_counter, dram.has_power) == (True, True, False, True)
    assert (gpu.counter_period_us, dram.counter_period_us) == (0, None)
    assert gpu.notes == dram.notes == (note,)


def test_a_gzipped_trace_and_one_with_a_byte_order_mark_are_the_same_trace(tmp_path: Path) -> None:
    plain = Playing(written(tmp_path, TRACE))
    zipped = Playing(written(tmp_path, gzip.compress(TRACE.encode(), mtime=0), "trace.csv.gz"))
    windows = Playing(written(tmp_path, "\ufeff" + TRACE.replace("\n", "\r\n"), "windows.csv"))

    assert plain.at(1) == zipped.at(1) == windows.at(1)


HEAD = "# a comment\nt_s,kind,key,name,power_w,counter_j\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["no trace", "first line must name t_s, key and power_w or counter_j"]),
        ("timestamp, power.draw [W]\n2025/07/27 00:34:45.155, 72.36 W\n", ["no trace"]),
        ("t_s,key\n0,a\n", ["no trace"]),
        (HEAD, ["without rows"]),
        (HEAD + "0,gpu,,H100,1,\n", ["line 3", "no key"]),
        (HEAD + "0,tpu,a,H100,1,\n", ["line 3", "kind must be one of gpu,", "'tpu'"]),
        (HEAD + "0,gpu,a,H100,1,\n\n# more\n1,gpu,a,H100,lots,\n", ["line 6", "power_w", "'lots'"]),
        (HEAD + "0,gpu,a,H100,nan,\n", ["line 3", "power_w", "'nan'"]),
        (HEAD + "0,gpu,a,H100,-2,\n", ["line 3", "power_w", "'-2'"]),
        (HEAD + "inf,gpu,a,H100,1,\n", ["line 3", "t_s", "'inf'"]),
        (HEAD + ",gpu,a,H100,1,\n", ["line 3", "t_s must rise"]),
        (HEAD + "1,gpu,a,H100,1,\n1,gpu,a,H100,1,\n", ["line 4", "t_s must rise"]),
        (HEAD + "0,gpu,a,H100,,5\n1,gpu,a,H100,,\n2,gpu,a,H100,,4\n", ["line 5", "counter_j must not fall"]),
        (b"SQLite format 3\x00\x80\xff\xfe", ["not a text file"]),
        (gzip.compress(TRACE.encode(), mtime=0)[:-12], ["gzip"]),
        (gzip.compress(TRACE.encode(), mtime=0).replace(b"\x00\x00", b"\x01\x02"), [""]),
        (HEAD + 'x"' * 200_000, ["trace.csv"]),
    ],
)
def test_a_file_that_is_no_trace_is_refused_with_the_place(
    tmp_path: Path, content: str | bytes, words: list[str]
) -> None:
    path = written(tmp_path, content)

    with pytest.raises(TraceError) as refusal:
        ReplaySensor(path)

    assert str(path) in str(refusal.value)
    assert all(word in str(refusal.value) for word in words)


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_path_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        ReplaySensor(tmp_path / name)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: (HEAD + text).encode()))
def test_no_content_raises_anything_else(tmp_path: Path, content: bytes) -> None:
    with contextlib.suppress(TraceError):
        ReplaySensor(written(tmp_path, content))


def make_example_trace() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("make_example_trace", str(ROOT / "scripts" / "make_example_trace"))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def test_the_example_is_what_its_script_makes_and_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    assert gzip.decompress(EXAMPLE.read_bytes()).decode() == make_example_trace().trace_text()
    assert EXAMPLE.stat().st_size < 60_000


def test_the_example_is_a_synthetic_node_of_eight_gpus_in_training() -> None:
    playing = Playing(EXAMPLE)
    devices = playing.inventory.devices

    def gpus_w(elapsed_s: float) -> float:
        return sum((reading.power_mw or 0) / 1000 for key, reading in playing.at(elapsed_s).items() if "GPU" in key)

    assert [device.kind for device in devices] == ["gpu"] * 8 + ["cpu_package", "dram"] * 2
    assert all(device.notes == ("replayed from trace_8gpu.csv.gz (synthetic)",) for device in devices)
    assert all(device.has_counter and device.has_power for device in devices)
    assert gpus_w(1) == pytest.approx(600, rel=0.05)
    assert gpus_w(5) == pytest.approx(950, rel=0.05)
    assert gpus_w(20) == pytest.approx(4400, rel=0.2)
    assert gpus_w(33) == pytest.approx(1250, rel=0.05)


def test_the_example_s_counters_agree_with_its_power() -> None:
    playing = Playing(EXAMPLE)
    step_s = 0.5
    played = [playing.at(row * step_s) for row in range(round(85 / step_s) + 1)]

    for device in playing.inventory.devices:
        readings = [readings[device.key] for readings in played]
        by_power_j = sum((reading.power_mw or 0) / 1000 * step_s for reading in readings[:-1])
        by_counter_j = ((readings[-1].counter_uj or 0) - (readings[0].counter_uj or 0)) / S
        assert by_power_j == pytest.approx(by_counter_j, rel=0.03)
