"""What an update learns from."""
