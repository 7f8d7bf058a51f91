"""Who may publish and subscribe what; the same as mosquitto's dynamic security and NATS write it."""
