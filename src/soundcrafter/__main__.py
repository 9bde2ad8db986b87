"""`python -m soundcrafter`: the command line."""

from soundcrafter.cli import main

if __name__ == "__main__":
    main()
