"""Runs every test, the slow ones too, and notes date and result in docs/verification.md.

The quick ones side by side as ``make test`` has them, the slow ones one after the other: some of
them measure memory, or need both of a small machine's cores.
"""

import datetime
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "verification.md"
PYTEST = [sys.executable, "-m", "pytest"]
PARTS = {"quick": ["-n", os.environ.get("WORKERS", "3")], "slow": ["-m", "slow"]}


def run_tests(options: list[str]) -> tuple[int, list[str]]:
    """Exit code and output lines of pytest, shown as they come."""
    lines = []
    command = [*PYTEST, *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return process.returncode, lines


def closing_of(lines: list[str]) -> str:
    """Pytest's last line."""
    found = (line.strip("= ") for line in reversed(lines) if line.startswith("="))
    return next(found, "no closing line: it was killed")


def write_report(closing: dict[str, str], skipped: list[str]) -> None:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    text = [
        "# The last full verification",
        "",
        "Written by `make test-all`; every test, the slow ones too.",
        "",
        f"- Date: {datetime.date.today().isoformat()}",
        f"- Commit: {commit}",
        f"- Machine: {platform.platform()}, Python {platform.python_version()}",
        *(f"- The {part} tests: {line}" for part, line in closing.items()),
        "",
        "Not run, and why:",
        "",
        *([f"- {line}" for line in skipped] or ["- nothing was skipped"]),
        "",
    ]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(text))


def main() -> int:
    outcomes = {part: run_tests(options) for part, options in PARTS.items()}
    closing = {part: closing_of(lines) for part, (_, lines) in outcomes.items()}
    every = [line for _, lines in outcomes.values() for line in lines]
    write_report(closing, [line for line in every if line.startswith("SKIPPED")])
    print(f"wrote {REPORT.relative_to(ROOT)}")
    return next((abs(code) for code, _ in outcomes.values() if code), 0)  # negative: a signal


if __name__ == "__main__":
    sys.exit(main())
