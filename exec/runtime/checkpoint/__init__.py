"""Checkpoints: what a training needs to go on, kept so that a kill at any moment loses little."""
