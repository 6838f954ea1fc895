"""How the gateway is run: the edge, and a stack on one machine."""
