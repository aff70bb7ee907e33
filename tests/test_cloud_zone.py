"""The zone by a cloud's metadata service, from a local server in its place: opt-in, quick, and never a guess."""

from __future__ import annotations

import time

import pytest
from grid_server import GridServer, Reply

import tracker
from tracker.intensity import cloud
from tracker.intensity.choice import choose
from tracker.intensity.cloud import cloud_zone

PARIS = {"TZ": "Europe/Paris"}


@pytest.fixture
def metadata(grid: GridServer, monkeypatch: pytest.MonkeyPatch) -> GridServer:
    """Answers 404 to all that a test doesn't say."""
    cloud._region.cache_clear()
    monkeypatch.setenv("TRACKER_CLOUD_URL", grid.url)
    grid.plays(Reply("not here", status=404))
    return grid


def aws(server: GridServer, region: str) -> None:
    server.plays(Reply("token-not-real", content_type="text/plain"), path="/latest/api/token")
    server.plays(Reply(region, content_type="text/plain"), path="/latest/meta-data/placement/region")


def gcp(server: GridServer, region: str) -> None:
    server.plays(Reply(f"projects/123456/zones/{region}-b"), path="/computeMetadata/v1/instance/zone")


def azure(server: GridServer, region: str) -> None:
    server.plays(Reply(region), path="/metadata/instance/compute/location")


def asked_for(server: GridServer, root) -> tuple[object, str]:
    return cloud_zone({"TRACKER_CLOUD_URL": server.url}, root=root)


@pytest.mark.parametrize(
    ("here", "region", "zone", "detail"),
    [
        (aws, "eu-west-3", "FR", "aws:eu-west-3"),
        (gcp, "europe-west4", "NL", "gcp:europe-west4"),
        (azure, "swedencentral", "SE", "azure:swedencentral"),
    ],
)
def test_each_cloud_tells_its_region(metadata, tmp_path, here, region, zone, detail):
    here(metadata, region)

    place, trouble = asked_for(metadata, tmp_path)

    assert (place.zone, place.origin, trouble) == (zone, "cloud", "") and detail in place.detail


def test_the_request_is_what_the_services_ask_for(metadata, tmp_path):
    aws(metadata, "eu-west-3")
    asked_for(metadata, tmp_path)

    token, region = metadata.asked
    assert token.headers["X-aws-ec2-metadata-token-ttl-seconds"] == "60"
    assert region.headers["X-aws-ec2-metadata-token"] == "token-not-real"
    assert "projects" not in region.path  # nothing but the region


def test_firmware_that_names_the_cloud_saves_asking_the_others(metadata, tmp_path):
    azure(metadata, "swedencentral")
    vendor = tmp_path / "sys" / "class" / "dmi" / "id"
    vendor.mkdir(parents=True)
    (vendor / "sys_vendor").write_text("Microsoft Corporation\n")

    place, _ = asked_for(metadata, tmp_path)

    assert place.zone == "SE" and len(metadata.asked) == 1
    assert metadata.asked[0].headers["Metadata"] == "true"


@pytest.mark.parametrize(
    "reply",
    [
        Reply("<html>log in</html>" * 100, content_type="text/html"),
        Reply("Eu West 3"),
        Reply("../../secret"),
        Reply("x" * 10_000),
        Reply(b"\xff\xfe"),
        Reply(fault="reset"),
        Reply(status=500),
    ],
)
def test_whatever_else_answers_there_gives_no_place(metadata, tmp_path, reply):
    metadata.plays(reply)

    place, trouble = asked_for(metadata, tmp_path)

    assert place is None and "gave no region" in trouble


def test_a_region_that_nobody_knows_is_named_and_not_guessed(metadata, tmp_path):
    aws(metadata, "mars-north-1")

    place, trouble = asked_for(metadata, tmp_path)

    assert place is None and "mars-north-1" in trouble


def test_a_service_that_never_answers_is_given_up_soon(metadata, tmp_path):
    metadata.plays(Reply(fault="hang"))
    before_s = time.monotonic()

    place, trouble = asked_for(metadata, tmp_path)

    assert place is None and "in time" in trouble
    assert time.monotonic() - before_s < 2  # it is given up after 0.2 s; the rest is a busy machine's


def test_the_choice_falls_back_to_the_time_zone_and_says_so(metadata, tmp_path):
    choice = choose(None, "Cloud", environ=PARIS | {"TRACKER_CLOUD_URL": metadata.url}, root=tmp_path)

    assert (choice.zone.zone, choice.zone.origin) == ("FR", "guessed")
    assert choice.warnings[0].startswith("zone of the cloud: ") and "guessed" in choice.warnings[1]


def test_offline_asks_nothing(metadata, tmp_path):
    aws(metadata, "eu-west-3")

    choice = choose(None, "cloud", environ=PARIS | {"TRACKER_CLOUD_URL": metadata.url}, root=tmp_path, offline=True)

    assert metadata.asked == [] and choice.zone.origin == "guessed" and "TRACKER_OFFLINE" in choice.warnings[0]


@pytest.mark.parametrize("zone", [None, "cloud"])
def test_a_run_asks_only_where_the_zone_is_the_clouds(zone, metadata, standin_nvml, tmp_path, monkeypatch):
    # All three stand in France: which one is asked is for this machine's firmware to say.
    aws(metadata, "eu-west-3")
    gcp(metadata, "europe-west9")
    azure(metadata, "francecentral")
    monkeypatch.setenv("TRACKER_DB", str(tmp_path / "runs.db"))
    monkeypatch.delenv("TRACKER_ZONE", raising=False)

    with tracker.track("x", zone=zone) as live:
        pass

    assert bool(metadata.asked) == (zone == "cloud")
    if zone == "cloud":
        run = tracker.get(live.id)
        assert (run.zone.zone, run.zone.origin) == ("FR", "cloud")
        assert "France (FR), from argument zone, metadata: " in " ".join(run.summary().split())
