"""Wire formats of inference: one file for each dialect, and what the dialects share."""
