"""`python -m fallback`: see `cli`."""

import sys

from fallback.cli import main
from fallback.core.errors import not_installed

if __name__ == "__main__":
    try:
        sys.exit(main())
    except ModuleNotFoundError as error:
        sys.exit(not_installed(error))
