"""The networks, in plain torch. Their weights load by these names."""
