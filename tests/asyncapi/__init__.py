"""The AsyncAPI document: whole, well-formed, and true of what programs say."""
