"""One request to a grid API: what is believed, what is refused, and what never leaks."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count

import pytest
from grid_server import GridServer, Reply, sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracker.errors import (
    ForbiddenError,
    NotServedError,
    OfflineError,
    ProviderError,
    RateLimitedError,
    SettingError,
    TemporaryError,
    UnauthorisedError,
    UnbelievableError,
)
from tracker.intensity.providers.transport import MAX_BODY_BYTES, Access, access, fetch_json

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
TOKEN = "s3cr3t-t0ken-not-real"
HTML = Reply("<!DOCTYPE html><html><title>Just a moment...</title></html>", content_type="text/html; charset=utf-8")


def source(url: str, token: str | None = TOKEN, **more: object) -> Access:
    environ = {"TRACKER_GRID_URL": url, **({"TRACKER_GRID_TOKEN": token} if token else {})}
    return replace(access("grid", "Grid", "", environ, now=lambda: NOW), **more)


def error_of(call: Callable[[], object]) -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        call()
    return caught.value


def test_json_comes_back_as_it_was_sent_and_the_request_says_who_asks(grid: GridServer) -> None:
    grid.plays({"a": [1, None]})

    found = fetch_json(source(f"{grid.url}/base/"), "/x", [("zone", "DK DK1")], headers={"auth-token": TOKEN})

    assert found == {"a": [1, None]}
    assert grid.asked[0].path == "/base/x"
    assert grid.asked[0].query == {"zone": "DK DK1"}
    assert grid.asked[0].headers["auth-token"] == TOKEN
    assert "gpu-energy-tracker" in grid.asked[0].headers["User-Agent"]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (HTML, UnbelievableError),
        (Reply(""), UnbelievableError),
        (Reply("{"), UnbelievableError),
        (Reply('{"a": NaN}'), UnbelievableError),
        (Reply("[" * 100_000), UnbelievableError),
        (Reply("9" * 5000), UnbelievableError),
        (Reply("{}", content_type=""), UnbelievableError),
        (Reply("{}", content_type="text/plain"), UnbelievableError),
        (Reply("{}", headers={"Content-Encoding": "gzip"}), UnbelievableError),
        (Reply("{}", 204), UnbelievableError),
        (Reply({"error": "Invalid auth-token"}, 401), UnauthorisedError),
        (Reply(sample("em_error_403.txt"), 403, "text/plain"), ForbiddenError),
        (Reply(sample("wt_403_scope.json"), 403), ForbiddenError),
        (Reply("no zone", 404), NotServedError),
        (Reply(sample("ec_co2eq_400.txt"), 400, "text/plain"), NotServedError),
        (Reply("slow down", 429), RateLimitedError),
        (Reply(sample("gb_error_500.json"), 500), TemporaryError),
        (Reply("Service Unavailable", 503, "text/plain"), TemporaryError),
        (replace(HTML, status=502), TemporaryError),
        (Reply("", fault="reset"), TemporaryError),
        (Reply('{"a": 1}', fault="cut"), TemporaryError),
        (Reply("", fault="endless"), UnbelievableError),
    ],
)
def test_whatever_else_comes_is_one_of_our_errors(grid: GridServer, reply: Reply, error: type[ProviderError]) -> None:
    grid.plays(reply)

    found = error_of(lambda: fetch_json(source(grid.url), "/x"))

    assert type(found) is error
    assert str(found).startswith("Grid: ")


def test_without_a_token_a_401_says_what_to_set_and_a_403_is_the_callers_address(grid: GridServer) -> None:
    grid.plays(Reply("", 401), Reply("", 403))

    unauthorised = error_of(lambda: fetch_json(source(grid.url, token=None), "/x"))
    refused = error_of(lambda: fetch_json(source(grid.url, token=None), "/x"))

    assert isinstance(unauthorised, UnauthorisedError) and "TRACKER_GRID_TOKEN" in str(unauthorised)
    assert isinstance(refused, RateLimitedError)


def test_a_server_that_says_nothing_is_left_after_the_read_timeout(grid: GridServer) -> None:
    grid.plays(Reply(fault="hang"))

    found = error_of(lambda: fetch_json(source(grid.url, read_s=0.05), "/x"))

    assert isinstance(found, TemporaryError) and "no answer" in str(found)


def test_an_answer_that_drips_is_left_after_the_whole_time(grid: GridServer) -> None:
    grid.plays(Reply(fault="endless"))
    seconds = count(step=4)

    found = error_of(lambda: fetch_json(source(grid.url, monotonic_s=lambda: float(next(seconds))), "/x"))

    assert isinstance(found, TemporaryError) and "not complete after 10 s" in str(found)


def test_an_answer_longer_than_any_of_them_is_not_read_to_its_end(grid: GridServer) -> None:
    grid.plays(Reply(fault="endless"))

    found = error_of(lambda: fetch_json(source(grid.url), "/x"))

    assert str(MAX_BODY_BYTES) in str(found)


def test_a_host_that_is_not_there_is_a_temporary_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

    found = error_of(lambda: fetch_json(source(f"http://127.0.0.1:{port}"), "/x"))

    assert isinstance(found, TemporaryError) and "cannot be reached" in str(found)


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Wed, 25 Nov 2026 12:01:30 GMT", 90.0),
        ("Wed, 25 Nov 2026 11:00:00 GMT", 0.0),
        ("999999999", 86_400.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_the_wait_that_a_source_asks_for_is_in_the_error(
    grid: GridServer, header: str, wait_s: float | None, status: int
) -> None:
    grid.plays(Reply("", status, headers={"Retry-After": header}))

    found = error_of(lambda: fetch_json(source(grid.url), "/x"))

    assert isinstance(found, TemporaryError) and found.retry_after_s == wait_s


def test_a_redirect_on_the_same_host_is_followed_and_one_elsewhere_is_not(grid: GridServer) -> None:
    grid.plays(Reply("", 302, headers={"Location": "/v4/here?zone=FR"}), path="/old")
    grid.plays({"found": True}, path="/v4/here")
    elsewhere = f"http://localhost:{grid.url.rpartition(':')[2]}/v4/here?key={TOKEN}"
    grid.plays(Reply("", 302, headers={"Location": elsewhere}), path="/away")
    headers = {"auth-token": TOKEN}

    assert fetch_json(source(grid.url), "/old", headers=headers) == {"found": True}
    found = error_of(lambda: fetch_json(source(grid.url), "/away", headers=headers))

    assert isinstance(found, UnbelievableError) and "localhost" in str(found) and TOKEN not in str(found)
    assert [asked.path for asked in grid.asked] == ["/old", "/v4/here", "/away"]


def test_a_circle_of_redirects_ends(grid: GridServer) -> None:
    grid.plays(Reply("", 301, headers={"Location": "/x"}))

    assert "circle" in str(error_of(lambda: fetch_json(source(grid.url), "/x")))
    assert len(grid.asked) == 4


def test_offline_means_that_no_request_goes_out(grid: GridServer) -> None:
    error_of(lambda: fetch_json(source(grid.url, offline=True), "/x"))

    assert isinstance(error_of(lambda: fetch_json(source(grid.url, offline=True), "/x")), OfflineError)
    assert grid.asked == []


def test_who_counts_the_requests_can_keep_one_from_going_out(grid: GridServer) -> None:
    def refuse() -> None:
        raise RateLimitedError("enough for this hour", retry_after_s=60.0)

    found = error_of(lambda: fetch_json(source(grid.url, before_request=refuse), "/x"))

    assert isinstance(found, RateLimitedError) and grid.asked == []


@pytest.mark.parametrize(
    "reply",
    [
        Reply({"error": f"Invalid token {TOKEN}"}, 401),
        Reply(f"{TOKEN} has no access", 403, "text/plain"),
        Reply(f"<p>{TOKEN}", 200, f"text/{TOKEN}"),
        Reply("", 302, headers={"Location": f"http://elsewhere.invalid/?api_key={TOKEN}"}),
        Reply("", fault="reset"),
        Reply(f"{TOKEN}", fault="cut"),
    ],
)
def test_no_token_is_in_an_error_its_traceback_a_log_or_a_repr(
    grid: GridServer, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    grid.plays(reply)
    asked = source(grid.url)

    found = error_of(lambda: fetch_json(asked, "/x", [("api_key", TOKEN)], headers={"auth-token": TOKEN}))

    told = "".join(traceback.format_exception(found)) + repr(asked) + caplog.text
    assert grid.asked[0].query["api_key"] == TOKEN
    assert "api_key=***" in caplog.text or reply.fault == "reset"
    assert TOKEN not in told
    assert found.__cause__ is None and found.__context__ is None


def test_a_password_of_the_users_netrc_does_not_take_the_tokens_place(
    grid: GridServer, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    grid.plays({})

    fetch_json(source(grid.url), "/x", headers={"Authorization": "Bearer abc"})

    assert grid.asked[0].headers["Authorization"] == "Bearer abc"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://grid",
        "grid.example",
        "http://",
        "http://[::1",
        "http://grid:port",
        "http://grid/?key=1",
        "http://u:p@grid",
    ],
)
def test_a_base_address_that_is_none_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(SettingError, match=r"TRACKER_GRID_URL: must") as caught:
        source(url)

    assert "grid" not in str(caught.value) and "u:p" not in str(caught.value)


def test_a_token_that_no_header_takes_is_refused_without_being_shown(grid: GridServer) -> None:
    with pytest.raises(SettingError, match="TRACKER_GRID_TOKEN") as caught:
        source(grid.url, token="abc\r\ndef")
    found = error_of(lambda: fetch_json(source(grid.url, token="schlüssel"), "/", headers={"auth-token": "schlüssel"}))

    assert "abc" not in str(caught.value)
    assert isinstance(found, UnauthorisedError) and "schlüssel" not in str(found)
    assert grid.asked == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200), status=st.sampled_from([200, 200, 201, 206, 400, 401, 418, 429, 500, 599]))
def test_no_bytes_raise_anything_but_our_errors(grid: GridServer, body: bytes, status: int) -> None:
    grid.plays(Reply(body, status))

    said = ""
    try:
        fetch_json(source(grid.url), "/x")
    except ProviderError as exc:
        said = str(exc)

    assert said.isprintable()


def test_a_request_in_a_thread_imports_nothing(grid: GridServer) -> None:
    grid.plays({"a": 1})
    program = textwrap.dedent(
        """
        import sys, threading
        from tracker.intensity.providers.registry import provider_for
        from datetime import UTC, datetime, timedelta
        import logging

        url = sys.argv[1].replace("127.0.0.1", "localhost")
        names = {"neso": "GB", "odre": "FR", "energidataservice": "DK-DK1", "electricitymaps": "FR",
                 "watttime": "CAISO_NORTH", "energycharts": "DE", "eia": "US-MIDA-PJM"}
        environ = {f"TRACKER_{name.upper()}_{key}": value for name in names
                   for key, value in (("URL", url), ("TOKEN", "user:password"))}
        chosen = [provider_for(zone, named=name, environ=environ) for name, zone in names.items()]
        imported = []
        me = threading.get_ident
        main = me()
        sys.addaudithook(lambda event, args: imported.append(args[0]) if event == "import" and me() != main else None)
        end = datetime.now(UTC) + timedelta(hours=1)
        failures = []

        def ask():
            for one in chosen:
                try:
                    one.provider.fetch(one.zone, end - timedelta(days=1), end)
                except Exception as exc:
                    failures.append(type(exc).__name__)

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
        print(imported, len(failures))
        """
    )

    done = subprocess.run([sys.executable, "-c", program, grid.url], capture_output=True, text=True, check=True)

    assert done.stdout.startswith("[] ")
    assert len(grid.asked) >= 7
