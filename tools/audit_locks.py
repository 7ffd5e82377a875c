"""Asks for known vulnerabilities of everything that the locks pin: `make audit`.

pip-audit ends with 1 for a vulnerability and for a database that it cannot ask. Whoever reads the result must know
which of the two it is, so this ends with 1 for the first and with 2, and a sentence, for the second.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

VULNERABLE, NOT_ASKED = 1, 2


def audit(program: Path, lock: str) -> int:
    """Audit one lock; return the exit code."""
    command = [program, "--disable-pip", "--require-hashes", "--strict", "--progress-spinner", "off", "-r", lock]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the Makefile's locks
    errors = done.stderr.strip().splitlines()
    if done.returncode == 0 or done.stdout.strip():  # it lists what it found on standard output
        print(f"{lock}: {' '.join(errors)}\n{done.stdout}".rstrip())
        return VULNERABLE if done.returncode else 0
    why = errors[-1].removeprefix("ERROR:pip_audit._cli:") if errors else f"pip-audit ended with {done.returncode}"
    print(
        f"{lock} was not audited, and nothing is known of its packages: pip-audit could not ask its database ({why}). "
        "Run `make audit` where the internet can be reached.",
        file=sys.stderr,
    )
    return NOT_ASKED


def main(locks: Sequence[str]) -> int:
    """Audit each lock; return the exit code of all: a vulnerability weighs more than a question without an answer."""
    program = Path(sys.executable).with_name("pip-audit")
    codes = {audit(program, lock) for lock in locks}
    return VULNERABLE if VULNERABLE in codes else max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
