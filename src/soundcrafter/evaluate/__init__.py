"""What is measured of generated sound: metrics, embedders, frozen prompts, the chain."""
