"""`python -m bessemer`: the command line, where its script is not on the PATH."""

from bessemer.frontends.cli import main

if __name__ == "__main__":
    main()
