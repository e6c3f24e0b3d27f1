"""The parser: what is wrong with a command line is one sentence, like any other bad input."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

from braidlm.errors import InputError


class Parser(argparse.ArgumentParser):
    """Raises `InputError` instead of printing the usage; a flag is never abbreviated."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, allow_abbrev=False, **settings)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuse a word that is not among the choices; name the nearest."""
        choices = list(map(str, action.choices or ()))
        if choices and value not in choices:
            close = difflib.get_close_matches(str(value), choices, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            name = "/".join(action.option_strings) or str(action.metavar or action.dest).lower()
            self.error(f"unknown {name} '{value}'{hint}; allowed: {', '.join(choices)}")

    def error(self, message: str) -> NoReturn:
        """Refuse a command line.

        Raises:
            InputError: always.
        """
        raise InputError(f"{message}; see '{self.prog} --help'")

    def refuse(self, words: list[str], command: str) -> NoReturn:
        """Refuse arguments that no command knows; name the nearest flag.

        Args:
            words: the arguments.
            command: the command that was given.

        Raises:
            InputError: always.
        """
        word = words[0].partition("=")[0]
        close = difflib.get_close_matches(word, self._flags(command), n=1)
        hint = f" (did you mean '{close[0]}'?)" if close else ""
        if command == "describe" and not word.startswith("--"):
            hint = " (a pattern that begins with '-' goes behind '--')"
        raise InputError(f"unknown argument '{word}'{hint}; see 'braid {command} --help'")

    def _flags(self, command: str) -> list[str]:
        parsers: list[argparse.ArgumentParser] = [self]
        flags: list[str] = []
        while parsers:
            for action in parsers.pop()._actions:
                flags += action.option_strings
                if isinstance(action, argparse._SubParsersAction):
                    choices = action.choices
                    parsers += [choices[command]] if command in choices else choices.values()
        return flags
