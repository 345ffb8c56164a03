"""SandboxImages on this node: `passes` compares what is wanted with what is here and tells of it, `bringing` pulls and builds."""
