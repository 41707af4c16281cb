"""The wire: one Protocol, one conformance suite; threads in one process, or MPI. It never knows what it carries."""
