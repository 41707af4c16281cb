"""Lumps: ranks that cannot differ yet are simulated as one, by the same events as single ranks."""
