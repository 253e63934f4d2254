"""``python -m scorda`` is the command ``scorda``."""

import signal
import sys

# Before the command hears it, Ctrl-C ends the process without a word.
signal.signal(signal.SIGINT, signal.SIG_DFL)

from scorda.cli import main  # noqa: E402

sys.exit(main())
