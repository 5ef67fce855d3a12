"""The operators: one frozen record each."""
