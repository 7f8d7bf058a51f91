"""Clients in other languages than ours; `make test` installs and runs them where there is npm."""
