"""Where the values of a program lie: the offset of each in one arena."""
