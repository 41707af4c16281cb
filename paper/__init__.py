"""Figures and the report, from committed measurements."""
