"""Writes the decks without the rest of the site: ``python -m slides FOLDER``, in ``docs``."""

import sys
from pathlib import Path

from slides import write

write(Path(sys.argv[1]))
