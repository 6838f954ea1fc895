"""A unit that the gateway does not have: what follows from its row follows from each row."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, cast

from common.metering.units import UNITS, Cost, Kind, Rate, Unit, UnitRow, Units


class _MadeUp(StrEnum):
    AUDIO = "audio_seconds"


AUDIO: Final = cast(Unit, _MadeUp.AUDIO)
WITH_AUDIO: Final[Units] = {
    **UNITS,
    AUDIO: UnitRow(Kind.OTHER, Cost.INPUT, (Rate("audio_minute", 60),), ("audio_seconds_heard",)),
}
