"""Runs every test, the slow ones too, and notes date and result in docs/verification.md."""

import datetime
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REPORT = ROOT / "docs" / "verification.md"
COMMAND = [sys.executable, "-m", "pytest", "-m", "slow or not slow"]


def run_tests() -> tuple[int, list[str]]:
    """Exit code and output lines of pytest, shown as they come."""
    lines = []
    with subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    return process.returncode, lines


def write_report(closing: str, skipped: list[str]) -> None:
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
        f"- Result: {closing.strip('= ')}",
        "",
        "Not run, and why:",
        "",
        *([f"- {line}" for line in skipped] or ["- nothing was skipped"]),
        "",
    ]
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text("\n".join(text))


def main() -> int:
    code, lines = run_tests()
    closing = next((line for line in reversed(lines) if line.startswith("=")), "no closing line")
    write_report(closing, [line for line in lines if line.startswith("SKIPPED")])
    print(f"wrote {REPORT.relative_to(ROOT)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
