"""``python -m scorda`` is the command ``scorda``."""

import sys

from scorda.cli import main

sys.exit(main())
