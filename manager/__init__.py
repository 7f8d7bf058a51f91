"""The manager: answers requests, keeps the state, watches over nodes and workers."""
