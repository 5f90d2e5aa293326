"""Showing data to an observer, and what it makes of them."""

__all__ = ["ends", "observe"]


def observe(observer, *batches):
    """Show batches to an observer, and return it."""
    for batch in batches:
        observer(batch)
    return observer


def ends(observer):
    """Return the smallest and the largest value that it would quantize: numbers, or lists of them."""
    low, high = observer.observed_range()
    return low.tolist(), high.tolist()
