"""What is remembered between passes: a cache of the store, and what nodes were heard to say."""
