"""Busbar: clusters of routers, run over MQTT."""
