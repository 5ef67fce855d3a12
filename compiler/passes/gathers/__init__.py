"""What is read at places that indices name: gathers, tables, and images that are resized."""
