"""Posture in Dagster: all instances' checks on a schedule, and the rules that bite on runs."""
