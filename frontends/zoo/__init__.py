"""Networks written with the builder, ready to compile."""
