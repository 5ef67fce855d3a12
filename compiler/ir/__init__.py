"""The two languages: the graph IR and the loop IR, with their text, verifiers and interpreters."""
