"""What is kept in memory between passes: a cache of the store, and the nodes' liveness times."""
