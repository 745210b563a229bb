"""`python -m vespid_agent`."""

from vespid_agent.cli import main

if __name__ == "__main__":
    main()
