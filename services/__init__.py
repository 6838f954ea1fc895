"""The services: one folder of one shape for each; they meet over gRPC only."""
