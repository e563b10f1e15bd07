"""Command lines: what every command's ``--help`` looks like."""

import argparse
from typing import Any

EXAMPLES = "examples:\n"


class _Help(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Paragraphs in the terminal's width; examples line by line, to be copied."""
        if text.startswith(EXAMPLES):
            return text
        fill = super()._fill_text
        paragraphs = text.replace("``", "").strip().split("\n\n")
        return "\n\n".join(fill(paragraph, width, indent) for paragraph in paragraphs)

    def _get_help_string(self, action: argparse.Action) -> str:
        """The option's help, and its default where there is one that the help does not state."""
        text = action.help or ""
        takes_a_value = action.nargs != 0
        if not takes_a_value or not action.default or "default" in text:
            return text
        return text + " (default: %(default)s)"


class CommandParser(argparse.ArgumentParser):
    """A parser whose help states every default, and ends with ``examples``, one a line."""

    def __init__(self, *args: Any, examples: str = "", **options: Any) -> None:
        options.setdefault("formatter_class", _Help)
        if examples:
            lines = ["  " + line for line in examples.strip().splitlines()]
            options["epilog"] = EXAMPLES + "\n".join(lines)
        super().__init__(*args, **options)
