"""``python -m circuitbench``: the command line."""

import sys

from circuitbench.cli import main

if __name__ == "__main__":  # processes that read records import it under another name
    sys.exit(main())
