"""A whole gateway on one machine, under supervisor: `make up`."""
