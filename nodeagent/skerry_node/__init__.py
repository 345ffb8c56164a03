"""The node agent and its keeper: everything that happens on one host. Nothing cluster-wide belongs here."""
