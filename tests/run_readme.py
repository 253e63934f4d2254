"""Run the commands that the README shows; part of .ci/run, not of pytest.

The ```bash blocks run in order, each in its own shell, all in one temporary folder that holds a
copy of examples/, with the scripts of the running Python first on the PATH. Lines that set up the
clone (`make`, `git clone`, `cd scorda`) are left out, because .ci/run has done them before.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCK = re.compile(r"^```bash\n(.*?)^```", re.MULTILINE | re.DOTALL)
DONE_BEFORE = re.compile(r"\s*(make\b|git clone\b|cd scorda\b|#|$)")


def blocks(text):
    """Scripts of the bash blocks, without the lines that were run before."""
    for block in BLOCK.findall(text):
        lines = [line for line in block.splitlines() if not DONE_BEFORE.match(line)]
        if lines:
            yield "\n".join(lines)


def main(readme):
    """Run every block; return the number of those that failed."""
    if not readme.is_file():
        print(f"There is no {readme}: its commands are part of what must work.")
        return 1
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    failed = ran = 0
    with tempfile.TemporaryDirectory() as folder:
        examples = readme.parent / "examples"
        if examples.is_dir():
            shutil.copytree(examples, Path(folder) / "examples")
        for script in blocks(readme.read_text(encoding="utf-8")):
            print(script, flush=True)
            begin = time.monotonic()
            command = ["bash", "-euo", "pipefail", "-c", script]
            status = subprocess.run(command, cwd=folder, env=environment).returncode
            print(f"-- exit {status} after {time.monotonic() - begin:.1f} s\n", flush=True)
            failed += status != 0
            ran += 1
    print(f"{ran - failed} of {ran} blocks of {readme.name} ran.")
    return failed


if __name__ == "__main__":
    sys.exit(bool(main(Path(sys.argv[1]).resolve())))
