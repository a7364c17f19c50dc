"""``python -m mpipipe``: the same as the ``mpipipe`` command."""

from mpipipe.cli.main import main

if __name__ == "__main__":
    main()
