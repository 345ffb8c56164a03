"""What is asked of images and of sandboxes' files at the agent's door: named, saved, pushed, exported, committed."""
