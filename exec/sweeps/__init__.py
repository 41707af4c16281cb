"""Sweeps: many trainings by one command, kept line by line, and the figures drawn from them."""
