"""The process in which the W&B client runs; started by `Dashboard`."""

from momentum_gpt.tracking.client import main

if __name__ == "__main__":
    main()
