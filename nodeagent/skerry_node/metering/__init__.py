"""What the agent tells Prometheus, as values: which metrics there are, and the text of a sandbox's. Pure."""
