"""Pages and tables of evaluations."""
