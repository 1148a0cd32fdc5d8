"""Drift statistics against Evidently and NannyML on the same data."""
