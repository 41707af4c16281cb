"""What happens: the program language, the plans, the network, the wire and the executor."""
