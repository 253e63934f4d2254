"""``python -m scorda`` is the command ``scorda``."""

import signal
import sys

# Workers of MPI import this module under another name, and do no more than that.
if __name__ == "__main__":
    # Before the command hears it, Ctrl-C ends the process without a word.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    from scorda.cli import main

    sys.exit(main())
