"""Documents and images, read by a Mistral-compatible provider."""
