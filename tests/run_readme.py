"""Run what the README and other pages show; part of .ci/run, not of pytest.

The bash and python blocks run in order, each in its own shell, those of a page in one temporary
folder that holds a copy of examples/, with the scripts of the running Python first on the PATH.
Lines that set up the clone (`make`, `git clone`, `cd scorda`) are left out, because .ci/run has
done them before. A python block runs twice, and has to print the same.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DONE_BEFORE = re.compile(r"\s*(make\b|git clone\b|cd scorda\b|#|$)")
COMMANDS = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}


def blocks(text):
    """Language and script of the blocks, without the lines that were run before."""
    for language, block in BLOCK.findall(text):
        lines = block.splitlines()
        if language == "bash":
            lines = [line for line in lines if not DONE_BEFORE.match(line)]
        if lines:
            yield language, "\n".join(lines)


def worked(language, script, **where):
    """Run a block, and return whether it ended well, and as it did before."""
    runs = []
    for _ in range(2 if language == "python" else 1):
        done = subprocess.run([*COMMANDS[language], script], stdout=subprocess.PIPE, **where)
        sys.stdout.buffer.write(done.stdout)
        runs.append((done.returncode, done.stdout))
    return all(run == runs[0] and run[0] == 0 for run in runs)


def main(page, examples):
    """Run every block of a page; return the number of those that failed."""
    if not page.is_file():
        print(f"There is no {page}: its commands are part of what must work.")
        return 1
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    failed = ran = 0
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(examples, Path(folder) / "examples")
        for language, script in blocks(page.read_text(encoding="utf-8")):
            print(script, flush=True)
            begin = time.monotonic()
            good = worked(language, script, cwd=folder, env=environment)
            seconds = time.monotonic() - begin
            print(f"-- {'done' if good else 'FAILED'} after {seconds:.1f} s\n", flush=True)
            failed += not good
            ran += 1
    print(f"{ran - failed} of {ran} blocks of {page.name} ran.")
    return failed


if __name__ == "__main__":
    pages = [Path(page).resolve() for page in sys.argv[1:]]
    sys.exit(bool(sum(main(page, pages[0].parent / "examples") for page in pages)))
