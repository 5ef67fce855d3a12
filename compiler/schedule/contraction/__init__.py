"""Matrix products and convolutions as loops over tiles of sums in registers."""
