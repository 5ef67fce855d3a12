"""Passes over the graph: one function and one file each, in folders by what they are about."""
