"""Caches that a decoder continues: their arrays get room for what is new."""
