"""Makes the networks of models/ fast on a CPU; see `optimize`."""
