"""Images: references, layouts, layers, the store. Nothing of an image becomes a path on the host; nothing here mounts."""
