"""What is computed again and in what order, so that little is alive at once."""
