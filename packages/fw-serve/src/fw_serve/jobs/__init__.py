"""Durable jobs: their model, the store that all processes share, its tables and migrations, and API keys."""
