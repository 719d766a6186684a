"""Training losses as pure functions, and the normalized targets they compare with."""
