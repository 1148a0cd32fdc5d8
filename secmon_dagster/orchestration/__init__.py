"""Everything that knows Dagster: executor, resources, IO managers and components."""
