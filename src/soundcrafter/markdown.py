"""Tables in Markdown, as reports contain them."""

from collections.abc import Iterable, Sequence


def markdown_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()
) -> list[str]:
    """Return the lines of a table; the columns named in `right` are aligned to the right."""
    rules = ["---:" if column in right else "---" for column in columns]
    return [_line(columns), f"|{'|'.join(rules)}|", *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def format_number(value: float | None, spec: str = ".3f") -> str:
    """Format a value with a format specification, an integer as it is, and None as a dash."""
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else f"{value:{spec}}"


def format_interval(bounds: Sequence[float] | None, spec: str = ".3f") -> str:
    """Format the bounds of an interval, and None as a dash."""
    return " to ".join(format_number(bound, spec) for bound in bounds) if bounds else "-"
