"""The control loop: take a snapshot, plan, apply."""
