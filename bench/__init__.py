"""Measures the gateway's speed as ratios inside one run: make bench."""
