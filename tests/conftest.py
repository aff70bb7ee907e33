"""What every test can ask for, and what holds for all of them."""

import os

import pytest
from grid_server import grid
from hypothesis import settings
from no_skips import pytest_make_collect_report, pytest_runtest_makereport
from postgres_server import postgres_url
from standin.fixtures import powercap_tree, standin_library, standin_nvml

settings.register_profile("derandomized", derandomize=True)
if os.environ.get("TRACKER_TEST_DERANDOMIZED") == "1":
    settings.load_profile("derandomized")

__all__ = [
    "grid",
    "postgres_url",
    "powercap_tree",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
    "standin_library",
    "standin_nvml",
]


@pytest.fixture(autouse=True)
def nothing_was_said_before() -> None:
    """Each test meets a process that has warned of nothing and taken no run's id, whichever tests ran in it before."""
    from tracker.session import process

    if process._state is not None:
        process._state._said.clear()
        process._state._lines = 0
        process._state.is_run_id_taken = False
