"""Two releases at once: manager, agents and command line of the previous one with those of this one."""
