"""Reader one: a program done for real, on arrays, over a transport."""
