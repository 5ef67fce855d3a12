"""Matrix products and convolutions on a matrix unit (AMX)."""
