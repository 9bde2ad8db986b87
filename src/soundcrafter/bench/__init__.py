"""How fast a model is: times, arithmetic and memory, beside a peer in the same run."""
