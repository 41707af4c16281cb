"""The language: ops as values, roles with symbolic peers, and what can be said of a program without running it."""
