"""A Chroma server that users share, each seeing their own data only."""
