"""The flow for Node-RED: as the contract has it, and run by a real Node-RED (`make node-red`)."""
