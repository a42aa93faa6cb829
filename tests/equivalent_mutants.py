"""Mutants that a check accepts, each read by a person: why it is no wrong solution.

The keys are those of `minipeft.checks.framework.mutants`. A mutant that is accepted and not listed
fails the tests; so does one that is listed and not accepted any more.
"""

ORDER = "the same value, written in another order"
INTEGERS = "integers have no gradient"
ONE_DEVICE = "a check has one device, the processor: there is no other to compare with"
ANY_WHOLE = "True and False serve as 1 and 0: a model takes either"
MADE_ANEW = "the result is made anew, so there is no history to cut"

EQUIVALENT = {
    "attend": {
        "attend: key.transpose(-2, -1) -> key.transpose(-1, -2)": ORDER,
        "attend: scores + mask -> scores.add_(mask)": "scores is the function's own tensor",
    },
    "causal_mask": {
        "causal_mask: under no_grad": MADE_ANEW,
        "causal_mask: like detached": MADE_ANEW,
    },
}
