"""PTX: its syntax, the parser, and where a kernel's variables lie."""
