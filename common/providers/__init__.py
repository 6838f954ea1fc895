"""Providers of models: one file for each that needs more than data."""
