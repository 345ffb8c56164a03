"""Control groups: version 2, and version 1 behind the same face. Only below the agent's own parent; other people's are never touched."""
