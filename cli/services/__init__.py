"""What `busbar up`, `manager`, `agent` and `broker` run, and what they need first."""
