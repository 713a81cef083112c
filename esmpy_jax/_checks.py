"""Bad input gets one clear sentence: what is wrong, where, and what to do."""


class InputError(ValueError):
    """Input that cannot be used; its message is one sentence meant for the user.

    The command line prints the sentence and exits with status 2; in Python it is a `ValueError`.
    """


def check(condition: bool, sentence: str) -> None:
    """Raise `InputError(sentence)` unless `condition` holds."""
    if not condition:
        raise InputError(sentence)
