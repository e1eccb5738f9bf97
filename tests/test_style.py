"""How the code is written, as far as a program can tell."""
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 120


def test_no_line_is_too_long():
    files = [path for folder in ("nanochat", "scripts", "dev", "tests") for path in (ROOT / folder).rglob("*")
             if path.suffix in (".py", ".sh")]
    long = [f"{path.relative_to(ROOT)}:{number}" for path in files
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1) if len(line) > LONGEST]
    assert len(files) > 50 and not long, long
