"""What the machine can do: the Machine document, the samples behind it, and the fit between them."""
