"""The bus: topics, states, messages, the contract, and the MQTT connection. Imports no other room."""
