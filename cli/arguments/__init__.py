"""What the words of a command line mean, and how they are completed."""
