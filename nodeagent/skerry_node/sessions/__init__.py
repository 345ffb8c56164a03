"""The agent's end of what joins a sandbox: execs, copies, connections. Their streams by fd from the keeper; no HTTP, no policy."""
