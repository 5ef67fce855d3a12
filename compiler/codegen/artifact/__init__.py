"""Machine code, object files, libraries and their C headers."""
