"""The definitions themselves: one folder an area, loaded by ``secmon_dagster.definitions``."""
