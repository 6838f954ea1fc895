"""How long each measurement takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's sizes; ``rounds`` are interleaved, A B A B, so that a noisy minute hits both sides."""

    rounds: int = 7
    round_seconds: float = 4.0
    """Of each side, at 32 connections."""
    sequential_requests: int = 1_500
    """Of each side and round, at one connection."""
    waves: int = 10
    """Waves of 10 streams, of each side and round."""
    full_speed_waves: int = 5
    """Waves of 100 streams at full speed, of each side and round."""
    paced_waves: int = 2
    """The same of 100 paced ones."""
    body_requests: int = 300
    """Large requests of each side and round; fewer when they are very large."""
    cost_requests: int = 10_000
    memory_requests: int = 100_000
    warm_requests: int = 80_000
    """Sent before memory is looked at."""
    revocations: int = 100
    kills: int = 20
    """Revocations right after auth was killed."""


QUICK = Plan(
    rounds=3,
    round_seconds=2.0,
    sequential_requests=500,
    waves=5,
    full_speed_waves=3,
    paced_waves=1,
    body_requests=100,
    cost_requests=5_000,
    memory_requests=20_000,
    warm_requests=20_000,
    revocations=20,
    kills=3,
)
"""For a look in between: a third of the time, and noisier."""
