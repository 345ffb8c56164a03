"""The node's side of sandbox networks: addresses, the bridge, the translation rules. What happens inside is the keeper's child's work."""
