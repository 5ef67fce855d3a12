"""What the instructions do, one file a kind."""
