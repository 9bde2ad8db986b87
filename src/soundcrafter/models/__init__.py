"""The networks: one set of classes for every size."""
