"""What every test can ask for, and what holds for all of them."""

from grid_server import grid
from no_skips import pytest_make_collect_report, pytest_runtest_makereport
from postgres_server import postgres_url
from standin.fixtures import powercap_tree, standin_library, standin_nvml

__all__ = [
    "grid",
    "postgres_url",
    "powercap_tree",
    "pytest_make_collect_report",
    "pytest_runtest_makereport",
    "standin_library",
    "standin_nvml",
]
