"""Posture: checks over many rows, profile reads, many instances in one go."""
