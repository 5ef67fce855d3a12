"""What every graph and every kernel must keep to."""
