"""The filesystem of writable layers on the host. Mounting root filesystems is the keeper's work."""
