"""The operator: binds sandboxes to nodes, expires them, declares nodes lost. Nothing of a host belongs here."""
