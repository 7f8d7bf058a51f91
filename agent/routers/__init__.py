"""Router programs that Busbar brings along; each runs as a process of its own."""
