"""Maxima and means of what windows see, and the way back."""
