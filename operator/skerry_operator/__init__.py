"""The cluster's side: binds sandboxes to nodes, expires them, declares nodes lost. No kernel here; nodes hear of it through the API."""
