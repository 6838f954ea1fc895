"""HTTP to providers and to Chroma: four timers, the gateway's own errors, server-sent events."""
