"""The edge: Envoy's configuration, rendered from the contract, a table and a template."""
