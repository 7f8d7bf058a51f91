"""The page of the realm: its rules, its requests, and the page itself in a browser."""
