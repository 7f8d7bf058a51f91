"""Discovery messages held against Home Assistant's own schemas and templates (`make home-assistant`)."""
