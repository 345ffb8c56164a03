"""The cluster's side: binds sandboxes to nodes, expires them, declares nodes lost. Nothing here touches a kernel; nodes hear of it through the API."""
