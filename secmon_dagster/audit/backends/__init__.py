"""The databases a chain can live in: PostgreSQL with all guarantees, the others with fewer."""
