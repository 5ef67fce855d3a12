"""16-bit floats: which values are rounded to them, and which operators compute in wider types."""
