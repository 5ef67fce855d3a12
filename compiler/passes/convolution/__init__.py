"""Convolutions written in other ways, by what the machine computes well."""
