"""No event is lost and none counts twice, whoever dies; the long run is `python -m tests.e2e.exactness`."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.exactness import run


def test_every_request_has_exactly_one_event_though_services_are_killed(tmp_path: Path) -> None:
    report = run(tmp_path / "state", requests=300, kills=3, seed=20261121)
    assert not report.differences, str(report)
    assert report.kills == 3
    assert report.served > 100, str(report)
    assert report.outcomes["completed"] > 50, str(report)
    assert report.outcomes["client_gone"] > 0, str(report)
    assert report.interrupted > 0, str(report)


def test_a_flipped_bit_in_each_round_costs_the_damaged_records_only(tmp_path: Path) -> None:
    report = run(tmp_path / "state", requests=300, kills=3, seed=20261125, bit_flips=True)
    assert not report.differences, str(report)
    assert len(report.flips) >= 2, str(report)
    assert report.lost_to_flips <= len(report.flips), str(report)
