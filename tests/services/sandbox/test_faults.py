from typing import Any

import pytest

from services.sandbox.checks import Refused
from services.sandbox.faults import Faults, read_faults


def read(asked: Any = None, *, model: str = "demo") -> Faults:
    return read_faults({} if asked is None else {"sandbox": asked}, model=model)


def test_nothing_fails_unless_asked() -> None:
    assert read() == Faults()
    assert read({}, model="demo?") == Faults()


def test_the_body_may_ask() -> None:
    assert read({"status": 429, "retry_after": "1", "first_byte_delay_seconds": 1}) == Faults(
        status=429, retry_after="1", first_byte_delay_seconds=1.0
    )
    assert read({"status": 503, "retry_after": 2.5}).retry_after == 2.5


def test_the_model_may_ask() -> None:
    faults = read(
        model="demo?status=429&retry_after=Fri,+31+Dec+1999+23:59:59+GMT&should_retry=false&error_message=a%26b"
    )
    assert faults == Faults(
        status=429, retry_after="Fri, 31 Dec 1999 23:59:59 GMT", should_retry=False, error_message="a&b"
    )
    assert read(model="demo?event_delay_seconds=0.5&no_done=true").event_delay_seconds == 0.5


def test_the_body_wins_over_the_model_and_they_add_up() -> None:
    assert read({"events": 2}, model="demo?events=5&no_done=true") == Faults(events=2, no_done=True)
    assert read({"status": 429}, model="demo?retry_after=1") == Faults(status=429, retry_after="1")


def test_a_stall_has_a_length() -> None:
    assert read({"stall_after_events": 0}).stall == 30
    assert read({"stall_after_events": 0, "stall_seconds": 2}).stall == 2


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"statsu": 429}, "sandbox.statsu"),
        ({"status": "429"}, "sandbox.status"),
        ({"status": True}, "sandbox.status"),
        ({"status": 200}, "sandbox.status"),
        ({"status": 429, "retry_after": "1\r\nx: y"}, "sandbox.retry_after"),
        ({"status": 429, "retry_after": " 1"}, "sandbox.retry_after"),
        ({"status": 429, "retry_after": []}, "sandbox.retry_after"),
        ({"event_delay_seconds": -1}, "sandbox.event_delay_seconds"),
        ({"event_delay_seconds": 1e9}, "sandbox.event_delay_seconds"),
        ({"cut_after_bytes": -1}, "sandbox.cut_after_bytes"),
        ({"events": 1.5}, "sandbox.events"),
        ({"no_done": 1}, "sandbox.no_done"),
        ({"retry_after": "1"}, "sandbox.retry_after"),
        ({"error_message": "no"}, "sandbox.error_message"),
        ({"stall_seconds": 1}, "sandbox.stall_seconds"),
        ("status=429", "sandbox"),
    ],
)
def test_a_wrong_fault_is_named(asked: Any, param: str) -> None:
    with pytest.raises(Refused) as caught:
        read(asked)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param.removeprefix("sandbox.") in caught.value.message


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("statsu=429", "statsu"),
        ("status=many", "status"),
        ("no_done=maybe", "no_done"),
        ("events=", "events"),
        ("status", "status"),
        ("first_byte_delay_seconds=nan", "first_byte_delay_seconds"),
        ("retry_after=1", "retry_after"),
    ],
)
def test_a_wrong_fault_in_the_model_is_named(query: str, name: str) -> None:
    with pytest.raises(Refused) as caught:
        read(model=f"demo?{query}")
    assert (caught.value.status, caught.value.param) == (400, "model")
    assert name in caught.value.message
