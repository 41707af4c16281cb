"""Datasets: find, verify and parse files of labelled images, or draw letters of our own."""
