"""What people and probes are shown of a supervisor: its figures, for Prometheus and over HTTP."""
