"""Everything in one process, with embedded Postgres and Valkey: for one machine, for trying out, for tests."""
