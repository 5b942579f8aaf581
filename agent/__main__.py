"""`python -m agent` is the command `leasehold`."""

from agent.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
