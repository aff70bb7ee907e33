"""Settings: precedence, origin, and wrong values from each source."""

import math
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracker
from tracker.errors import SettingError
from tracker.settings import EXAMPLE_TRACE, VARIABLES, checked_argument, resolve, text

NO_USER_FILE = Path("no such file")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a" / "b").mkdir(parents=True)
    return tmp_path


def resolved(folder: Path, arguments=None, environ=None, user_config=NO_USER_FILE, **kwargs):
    return resolve(arguments or {}, environ=environ or {}, cwd=folder, user_config=user_config, **kwargs)


def test_each_source_gives_way_to_the_one_before_it(folder):
    (folder / "tracker.toml").write_text("pue = 1.4\n")
    user_file = folder / "user.toml"
    user_file.write_text("pue = 1.5\n")
    sources = [({"pue": 1.2}, {"TRACKER_PUE": "1.3"}), ({}, {"TRACKER_PUE": "1.3"}), ({}, {})]

    found = [resolved(folder / "a" / "b", *source, user_config=user_file) for source in sources]

    assert [s.pue for s in found] == [1.2, 1.3, 1.4]
    assert found[0].origins["pue"] == "argument"
    assert found[1].origins["pue"] == "TRACKER_PUE"
    assert found[2].origins["pue"] == f"{folder / 'tracker.toml'}: pue"
    (folder / "tracker.toml").unlink()
    assert resolved(folder, user_config=user_file).pue == 1.5
    assert resolved(folder).pue == 1.0
    assert resolved(folder).origins["pue"] == "default"


def test_the_nearest_pyproject_with_our_table_holds(folder):
    (folder / "pyproject.toml").write_text('[tool.tracker]\nproject = "far"\n')
    (folder / "a" / "pyproject.toml").write_text('[tool.other]\nproject = "not ours"\n')

    assert resolved(folder / "a" / "b").project == "far"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRACKER_PUE", "0.9"),
        ("TRACKER_PUE", "eleven"),
        ("TRACKER_INTERVAL", "0"),
        ("TRACKER_INTERVAL", "nan"),
        ("TRACKER_INTENSITY", "-1"),
        ("TRACKER_GPUS", "first"),
        ("TRACKER_RUN_ID", "last"),
        ("TRACKER_RUN_ID", "a/b"),
        ("TRACKER_OFFLINE", "perhaps"),
    ],
)
def test_a_wrong_variable_is_named_once_and_the_next_source_holds(folder, variable, value):
    expected = resolved(folder)

    found = resolved(folder, environ={variable: value})

    (problem,) = found.problems
    assert problem.startswith(variable) and value in problem
    assert {name: getattr(found, name) for name in VARIABLES} == {name: getattr(expected, name) for name in VARIABLES}


def test_a_wrong_file_is_named_and_ignored(folder):
    (folder / "tracker.toml").write_text("pue = [\n")

    found = resolved(folder)

    assert found.pue == 1.0
    (problem,) = found.problems
    assert "tracker.toml" in problem and "TOML" in problem


def test_a_misspelt_setting_in_a_file_is_named_with_the_near_one(folder):
    (folder / "tracker.toml").write_text('projct = "x"\n')

    (problem,) = resolved(folder).problems

    assert "'projct'" in problem and "'project'" in problem


def test_a_check_from_a_higher_room_can_refuse_a_value(folder):
    def refuse(value, origin):
        raise SettingError(f"{origin}: refused")

    found = resolved(folder, environ={"TRACKER_ZONE": "XX"}, checks={"zone": refuse})

    assert found.zone is None
    assert found.problems == ("TRACKER_ZONE: refused; ignored",)


def test_paths_are_absolute_from_where_they_were_written(folder):
    (folder / "tracker.toml").write_text('db = "data/runs.db"\n')

    from_file = resolved(folder / "a" / "b").db
    from_environ = resolved(folder / "a", environ={"TRACKER_DB": "x.db"}).db
    url = resolved(folder, environ={"TRACKER_DB": "postgresql://u:p@h/d"}).db

    assert from_file == str(folder / "data" / "runs.db")
    assert from_environ == str(folder / "a" / "x.db")
    assert url == "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("pue", 0.5, ValueError),
        ("pue", "a", ValueError),
        ("pue", True, TypeError),
        ("interval_s", -1, ValueError),
        ("interval_s", math.inf, ValueError),
        ("interval_s", [1], TypeError),
        ("gpus", "some", ValueError),
        ("gpus", [0, 0], ValueError),
        ("gpus", [-1], ValueError),
        ("gpus", [1.5], TypeError),
        ("gpus", 3.5, TypeError),
        ("project", 3, TypeError),
        ("project", "a\0b", ValueError),
        ("project", "\ud800", ValueError),
        ("zone", " ", ValueError),
        ("db", "", ValueError),
        ("intensity_g_per_kwh", -0.1, ValueError),
    ],
)
def test_a_wrong_argument_raises_with_its_name(name, value, error):
    with pytest.raises(error, match=name):
        checked_argument(name, value)
    with pytest.raises(error, match=name):
        tracker.track("x", **{name: value})


def test_wrong_tags_and_names_raise():
    for wrong in ({"a": 1}, {1: "a"}, ["a"]):
        with pytest.raises(TypeError, match="tag"):
            tracker.track("x", tags=wrong)
    with pytest.raises(TypeError, match="name"):
        tracker.track(3)


@pytest.mark.parametrize(
    ("given_gpus", "expected"),
    [("all", "all"), (" None ", "none"), ("0,2", (0, 2)), (["GPU-ab", 1], ("GPU-ab", 1)), ((), ())],
)
def test_gpus_are_read_in_all_their_forms(given_gpus, expected):
    assert checked_argument("gpus", given_gpus) == expected


@given(st.text(max_size=200))
def test_any_text_a_database_can_keep_is_taken_unchanged(name):
    try:
        kept = text(name)
    except ValueError:
        assert "\0" in name or any("\ud800" <= c <= "\udfff" for c in name)
    else:
        assert kept == name


def test_a_track_is_picklable_and_starts_nothing():
    prepared = tracker.track("x", project="p", tags={"a": "b"}, pue=1.2)

    copy = pickle.loads(pickle.dumps(prepared))

    assert copy.__dict__ == prepared.__dict__


def test_the_example_to_replay_comes_with_the_package(tmp_path):
    found = resolve({}, environ={"TRACKER_REPLAY": "example", "TRACKER_DB": "x"}, cwd=tmp_path, user_config=tmp_path)

    assert Path(found.replay).is_file() and found.replay == str(EXAMPLE_TRACE)
