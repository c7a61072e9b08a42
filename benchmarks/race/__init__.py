"""Searches that race for the best network at an equal budget, and who they are raced against."""
