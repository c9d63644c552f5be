"""`python -m rotanext`: the command line, as torchrun and accelerate start it."""

from rotanext.cli.main import main

if __name__ == "__main__":
    main()
