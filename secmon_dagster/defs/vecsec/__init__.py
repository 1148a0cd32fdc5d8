"""Dagster's side of VecSec: the learning job, its sensor, and the blind test with its plot."""
