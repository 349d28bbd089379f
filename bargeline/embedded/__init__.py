"""Real servers from wheels: Valkey and PostgreSQL, with their data under the state folder."""
