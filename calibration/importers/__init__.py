"""What users have measured already, read from the files that benchmarks leave."""
