"""The same on a matrix unit (AMX)."""
