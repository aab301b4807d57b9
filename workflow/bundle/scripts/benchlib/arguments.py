"""Numbers, and lists of them, on a command line."""

import argparse


def integers(text):
    """Positive integers of "1,2,4" or "8". Raises ArgumentTypeError."""
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers") from None
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: sizes begin at 1")
    return found


def positive(text):
    """A number above 0. Raises ArgumentTypeError."""
    found = _number(text)
    if not found > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return found


def not_negative(text):
    """A number of at least 0. Raises ArgumentTypeError."""
    found = _number(text)
    if not found >= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is below 0")
    return found


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def at_least_one(text):
    """An integer above 0. Raises ArgumentTypeError."""
    found = integers(text)
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one integer")
    return found[0]


def flat(lists):
    """One list of several; empty for None."""
    return [number for numbers in lists or () for number in numbers]
