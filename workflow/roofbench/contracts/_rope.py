"""Checks of positions and of the table of angles that kernels with rotary embeddings share."""

# Fewer positions may well be in order.
MANY = 16
NEAR = 1e-2


def check_table(argument, table):
    """Row 0 of the table belongs to position 0: all cosines are 1, and all sines, which come behind them, are 0."""
    half = table.shape[-1] // 2
    first = table[0].float()
    if bool(((first[:half] - 1).abs() > NEAR).any()) or bool((first[half:].abs() > NEAR).any()):
        found = f"row 0 begins with {float(first[0]):.3g}, its second half with {float(first[half]):.3g}"
        yield argument, found, "1 and 0: cosines, then sines, of position 0"


def check_order(argument, positions):
    """Requests are at positions of their own: tokens of different requests do not lie in the order of the table."""
    if positions.numel() >= MANY and bool((positions.flatten().diff() == 1).all()):
        yield argument, "positions in the order of the table", "positions in random order, as requests have them"
