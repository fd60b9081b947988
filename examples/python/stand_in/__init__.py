"""What the examples need of the outside world, on this machine: a LiveKit dispatcher and
an LLM provider, both without media, accounts or network."""
