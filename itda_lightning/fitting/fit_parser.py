"""The parser of the fit command: refusals in one line, and help that begins with the options of this package."""

from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from itda_lightning.machine.parser import OneLineParser

# The first options of the groups of options, in the order of the help; Lightning's groups come after them.
FIRST = ("--model", "--data", "--run", "--help")


class FitParser(OneLineParser, LightningArgumentParser):
    """Lightning's parser, whose refusals are one line, and whose help begins with the options of this package."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help: the options of the model, the data and the run first, of Lightning's trainer last."""

        def place(group: object) -> int:
            names = {name for action in vars(group)["_group_actions"] for name in action.option_strings}
            return next((place for place, name in enumerate(FIRST) if name in names), len(FIRST))

        self._action_groups = sorted(self._action_groups, key=place)
        return super().format_help(*args, **kwargs)
