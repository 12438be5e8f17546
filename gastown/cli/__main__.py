"""`python -m gastown.cli` is `gastown`."""

from gastown.cli import main

if __name__ == "__main__":
    main()
