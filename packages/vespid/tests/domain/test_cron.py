"""Cron: time zones, daylight saving, missed firings."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from vespid.domain.cron import CronInvalid, Firing, TimezoneInvalid, fire, next_at, validate

BERLIN = "Europe/Berlin"


def at(text, timezone=BERLIN, fold=0):
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone), fold=fold).timestamp() * 1000)


def test_next_firing_is_in_the_zone_of_the_trigger():
    assert next_at("0 3 * * *", BERLIN, at("2026-01-01T12:00")) == at("2026-01-02T03:00")
    assert next_at("0 3 * * *", "UTC", at("2026-01-01T12:00")) == at("2026-01-02T03:00", "UTC")


def test_next_firing_is_always_later():
    assert next_at("0 3 * * *", BERLIN, at("2026-01-01T03:00")) == at("2026-01-02T03:00")
    assert next_at("* * * * *", "UTC", 60_000) == 120_000
    assert next_at("* * * * *", "UTC", 60_001) == 120_000
    assert next_at("* * * * *", "UTC", 59_999) == 60_000


def test_time_that_daylight_saving_skips_fires_when_the_gap_is_over():
    # 29 March 2026: 02:00 becomes 03:00.
    assert next_at("30 2 * * *", BERLIN, at("2026-03-28T12:00")) == at("2026-03-29T03:00")
    assert next_at("30 2 * * *", BERLIN, at("2026-03-29T03:00")) == at("2026-03-30T02:30")


def test_time_that_daylight_saving_repeats_fires_once():
    # 25 October 2026: 03:00 becomes 02:00.
    first = next_at("30 2 * * *", BERLIN, at("2026-10-24T12:00"))
    assert first == at("2026-10-25T02:30", fold=0)
    assert next_at("30 2 * * *", BERLIN, first) == at("2026-10-26T02:30")
    # Asked within the second of the two hours: never an answer that is over.
    within = at("2026-10-25T02:10", fold=1)
    assert next_at("30 2 * * *", BERLIN, within) == at("2026-10-26T02:30")


def test_every_hour_goes_by_true_hours():
    times = [at("2026-10-25T00:30")]
    for _ in range(5):
        times.append(next_at("0 * * * *", BERLIN, times[-1]))
    assert [later - earlier for earlier, later in pairwise(times[1:])] == [3_600_000] * 4


def test_missed_firings_are_made_up_for_by_one():
    due, now = at("2026-01-01T03:00"), at("2026-01-05T12:00")
    assert fire("0 3 * * *", BERLIN, due, now) == Firing(due, at("2026-01-06T03:00"))
    assert fire("0 3 * * *", BERLIN, due, due) == Firing(due, at("2026-01-02T03:00"))


@pytest.mark.parametrize("text", ["", "* * * *", "* * * * * *", "60 * * * *", "x * * * *", "0 0 31 2 *", "*/0 * * * *"])
def test_what_is_no_expression(text):
    with pytest.raises(CronInvalid):
        validate(text)


@pytest.mark.parametrize("zone", ["Mars/Base", "", "../../etc/passwd", "/etc/passwd", "x" * 5_000, "a\0b", "Europe"])
def test_what_is_no_time_zone(zone):
    with pytest.raises(TimezoneInvalid):
        validate("0 3 * * *", zone)
