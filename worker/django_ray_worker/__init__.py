"""The supervisor: claims executions, runs them on Ray, records what became of them."""
