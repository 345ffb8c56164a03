"""The resolver that sandboxes ask: it answers within each one's egress policy, and lets the answered addresses in. It caches nothing."""
