"""`python -m migrator` is `migrator`, for whoever has the package and not its commands on the path."""

from migrator.cli import main

if __name__ == "__main__":
    main()
