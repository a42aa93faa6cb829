"""What every check is made of: the framework decides, named mistakes explain.

An exercise is declared: the package's own object, trials (how it is called, with which options)
and the usual mistakes. For every exercise alike the framework makes the cases, compares results,
gradients, arguments, state, randomness and types with the reference's, names what is wrong, and
shows the smallest case that fails. CONTRIBUTING.md has an example.
"""

from minipeft.checks.framework.cases import OMIT, Case, call
from minipeft.checks.framework.check import Check
from minipeft.checks.framework.comparing import compare
from minipeft.checks.framework.errors import CheckFailed, NotFinished, expect
from minipeft.checks.framework.inputs import Draw
from minipeft.checks.framework.numbers import NumberCheck, diagnosis
from minipeft.checks.framework.trial import DROPOUT, Mistake, Trial, View, mistake

__all__ = [
    "DROPOUT",
    "OMIT",
    "Case",
    "Check",
    "CheckFailed",
    "Draw",
    "Mistake",
    "NotFinished",
    "NumberCheck",
    "Trial",
    "View",
    "call",
    "compare",
    "diagnosis",
    "expect",
    "mistake",
]
