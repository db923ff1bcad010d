"""Problems of a dataset, and a collection that counts them by kind."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..utils.errors import UserError
from ..utils.text import cut, printable

LONGEST = 1000  # characters of a line


class Problem(NamedTuple):
    """A problem of a dataset."""

    kind: str
    """The heading under which problems are counted."""
    what: str
    """The location and the bad value; for an annotation file, without the file's name."""
    fatal: bool = True
    """Whether it stops a training. The toolboxes accept the other problems silently."""
    remedy: str = ''
    """How to fix all problems of this kind, unless ``what`` makes that clear."""

    def line(self) -> str:
        """The problem and its remedy, for the error message of a run."""
        return f'{self.what}; {self.remedy}' if self.remedy else self.what


def refuse(problems: Sequence[Problem]) -> None:
    """Raise a :class:`UserError` that describes the first of some problems, if there are any."""
    if problems:
        more = len(problems) - 1
        others = f' (and {more} more problem{"s" * (more > 1)} in these folders)' if more else ''
        raise UserError(f'{problems[0].line()}{others}')


Report = Callable[[Problem], None]


def fatal_apart(fatal: list[Problem], others: Report) -> Report:
    """A report that collects fatal problems in a list, and passes the others on.

    Args:
        fatal: The list.
        others: Called with each problem that is not fatal.
    """
    return lambda problem: (fatal.append if problem.fatal else others)(problem)


@dataclass
class Repairs:
    """Reports what is repaired in a file as warnings.

    Attributes:
        report: Called with each.
        made: How many there were.
    """

    report: Report
    made: int = 0

    def __call__(self, kind: str, what: str) -> None:
        """Report a repair.

        Args:
            kind: What was wrong, and how it is read now.
            what: The record or value.
        """
        self.made += 1
        self.report(Problem(kind, what, fatal=False))


@dataclass
class Findings:
    """All problems of a dataset.

    Attributes:
        shown: How many problems of each kind are listed; all are counted.
    """

    shown: int
    counts: Counter = field(default_factory=Counter)
    examples: dict[tuple[bool, str], list[Problem]] = field(default_factory=lambda: defaultdict(list))

    def add(self, problem: Problem) -> None:
        """Count a problem, and keep it if it is among the first of its kind."""
        key = (problem.fatal, problem.kind)
        self.counts[key] += 1
        if len(self.examples[key]) < self.shown:
            self.examples[key].append(problem)

    def errors(self) -> int:
        """The number of fatal problems."""
        return sum(count for (fatal, _), count in self.counts.items() if fatal)

    def summary(self) -> Iterator[str]:
        """One line for each kind, with the first problem."""
        for (fatal, kind), problems in self.examples.items():
            yield f'{kind}: {self.counts[fatal, kind]} ({printable(problems[0].what)})'

    def lines(self) -> Iterator[str]:
        """The problems as text, errors first."""
        for (fatal, kind), problems in sorted(self.examples.items(), key=lambda item: not item[0][0]):
            yield f'{"error" if fatal else "warning"}: {kind}: {self.counts[fatal, kind]}'
            yield from (f'    {cut(printable(problem.what), LONGEST)}' for problem in problems)
            if remedy := problems[0].remedy:
                yield f'    → {printable(remedy)}'
