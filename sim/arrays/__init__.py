"""Regular programs simulated on arrays: an op is done once for all ranks that do it, message by message."""
