"""Rematerialization and scheduling, so that few bytes are live at once."""
