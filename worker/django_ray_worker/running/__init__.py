"""From claims to outcomes: calls, and where they run."""
