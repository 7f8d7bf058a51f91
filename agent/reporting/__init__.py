"""What goes out: reports, heartbeats, workers' output."""
