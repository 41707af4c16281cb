"""Strategies: pure functions from a workload, a mesh and options to a program."""
