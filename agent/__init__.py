"""The agent: runs a node's workers and tells the manager how they are."""
