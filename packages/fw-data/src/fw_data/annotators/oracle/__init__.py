"""The `oracle` backend: geometry read from truth files, for synthetic video and tests."""
