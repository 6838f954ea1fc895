"""Usage events, stored once, and their sums."""
