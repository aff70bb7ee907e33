"""Hooks that make a skipped test a failure under `scripts/test --all`, where nothing may be missing."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest

SKIPS_FAIL = os.environ.get("TRACKER_TEST_ALL") == "1"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    report = yield
    # No machine can be asked to grow a GPU, and an expected failure is no skip.
    if SKIPS_FAIL and report.skipped and not hasattr(report, "wasxfail") and "gpu" not in item.keywords:
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, Any, Any]:
    report = yield
    if SKIPS_FAIL and report.skipped:
        report.outcome = "failed"
    return report
