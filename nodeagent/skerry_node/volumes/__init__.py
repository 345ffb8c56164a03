"""Volumes on this node: where each lives, what is written into it, and a mount of it as an fd. Nothing here enters a sandbox."""
