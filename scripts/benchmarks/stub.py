"""Compiles the stub endpoint, stub.c, and runs it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

SOURCE = Path(__file__).with_name("stub.c")


def compiled(folder: Path) -> Path:
    """The stub's program in that folder. Ends with the next step if there is no compiler."""
    program = folder / f"stub-{sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not program.exists():
        compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            raise SystemExit(
                "scripts/bench: no C compiler (cc) for the stub endpoint, and one in Python would be what is measured; "
                "install one (Debian: apt-get install gcc libc6-dev), or choose cases without DynamoDB (--case json-small)"
            )
        aside = program.with_suffix(".new")
        subprocess.run([compiler, "-O2", "-o", str(aside), str(SOURCE)], check=True)
        aside.rename(program)
    return program


@contextmanager
def running(
    program: Path, key: tuple[str, ...], items: Path | None, delay_us: int, hidden: bool, core: int
) -> Iterator[str]:
    """Its endpoint, until the block ends; it holds `items`, from the first write on if they are hidden."""
    words = ["bench", key[0], *(key[1:] or ("-",)), str(items or "-"), str(delay_us), str(int(hidden))]
    process = subprocess.Popen(
        [program, *words],
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    try:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        if not port:
            raise RuntimeError(f"the stub endpoint does not come up: {' '.join(words)}")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
