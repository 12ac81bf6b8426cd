"""`python -m frozenseg COMMAND ...`: the same as the console script."""

from frozenseg.commands import main

if __name__ == "__main__":
    main()
