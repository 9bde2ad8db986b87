"""Blind listening tests: the page that listeners get, and the analysis of their answers."""
