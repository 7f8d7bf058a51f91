"""Clients in other languages than ours; `make foreign` installs and runs them."""
