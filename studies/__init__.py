"""Real searches: ``python -m studies.digits``, ``studies.recall``, ``studies.edge_of_chaos``."""
