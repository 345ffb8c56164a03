"""The API server as this node sees it: how to reach it, its watch, Events, Lease and SandboxNode. No decision about sandboxes is made here."""
