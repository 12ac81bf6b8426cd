"""`python -m frozenseg COMMAND ...` does the same as the console script `frozenseg`."""

from frozenseg.commands import main

if __name__ == "__main__":
    main()
