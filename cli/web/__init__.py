"""The page of the realm, which `busbar web` serves: its libraries come with the extra `web`."""
