"""`python -m microddsp` is the command `microddsp`."""

from microddsp.cli.app import main

if __name__ == "__main__":
    main()
