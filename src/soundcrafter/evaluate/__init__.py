"""Measures of generated sound: metrics, embedders, frozen prompts, the chain link by link."""
