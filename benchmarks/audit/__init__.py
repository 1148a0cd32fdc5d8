"""The audit chain beside bare PostgreSQL, the common design, and pymerkle."""
