"""Each solution is judged once in a session: every test that asks for its verdict gets that one.

What the package defines is always judged anew, since tests replace parts of it.
"""

import pytest
from submitted import VERDICTS

from minipeft import checks
from minipeft.checks.framework import Check

PACKAGES = ("minipeft", "tiny_transformer")


@pytest.fixture(autouse=True)
def each_solution_once(monkeypatch):
    judge = Check.__call__

    def once(check, candidate):
        made_by = str(getattr(candidate, "__module__", None)).partition(".")[0]
        if made_by in PACKAGES or not callable(candidate):
            return judge(check, candidate)
        key = check.name, id(candidate)
        if key in VERDICTS:
            error = VERDICTS[key][1]
            if error is not None:
                raise error
            return print(f"✓ {candidate.__name__} (judged before)")
        error = None
        try:
            judge(check, candidate)
        except checks.CheckFailed as raised:
            error = raised.with_traceback(None)  # whose frames hold all that was observed
        VERDICTS[key] = candidate, error  # the candidate stays, and so its id is its own
        if error is not None:
            raise error

    monkeypatch.setattr(Check, "__call__", once)
