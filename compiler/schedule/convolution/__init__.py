"""Convolutions that go ways of their own: depthwise, and Winograd's."""
