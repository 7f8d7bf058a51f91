"""One method for each operation of the contract, written by docs/client_methods.py from its table."""
