"""Chats with OpenAI-compatible providers."""
