"""HTTP for the people and tools of this machine, on a unix socket. What is asked for is done by a Backend, not here."""
