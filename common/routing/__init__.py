"""Which deployment answers a request, and what is tried when it fails."""
