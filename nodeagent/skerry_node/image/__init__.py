"""Images: references, layouts, layers, the store. Nothing of an image ever becomes a path on the host; nothing here mounts."""
