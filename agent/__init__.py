"""The agent: runs a node's workers and reports their state to the manager."""
