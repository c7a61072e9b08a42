"""What is done about it: the sampler (what starts), the pruner (what stops), and the verdicts."""
