"""Everything that knows gRPC: the server, its interceptors, and how a service is run."""
