"""Real trainings against the clock."""
