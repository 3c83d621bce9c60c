"""``python -m adamoffload``."""

import sys

from adamoffload.cli import main

if __name__ == "__main__":
    sys.exit(main())
