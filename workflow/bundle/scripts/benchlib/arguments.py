"""Lists of numbers on a command line."""

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


def flat(lists):
    """One list of several; empty for None."""
    return [number for numbers in lists or () for number in numbers]
