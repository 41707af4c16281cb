"""What will happen: the same programs, timed by a Machine; simulated, solved and compared."""
