"""What is wrong between a command and its manager."""
