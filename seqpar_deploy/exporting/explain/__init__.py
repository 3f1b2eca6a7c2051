"""Where a bundle leaves its checkpoint: stage by stage, then node by node."""
