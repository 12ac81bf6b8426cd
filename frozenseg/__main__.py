"""`python -m frozenseg COMMAND ...` is `frozenseg COMMAND ...`."""

from frozenseg.commands import main

if __name__ == "__main__":
    main()
