"""Postgres: the only truth, and the only place with SQL."""
