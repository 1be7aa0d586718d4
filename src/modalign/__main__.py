"""``python -m modalign`` is the command ``modalign``; ``torchrun ... -m modalign`` is it in several processes."""

from modalign.cli import main

if __name__ == "__main__":  # processes that are spawned import this file under another name
    main()
