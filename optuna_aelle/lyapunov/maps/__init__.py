"""The layers that the engine knows, each as a map with a structured Jacobian product."""
