"""What `minipeft.doctor` looks at, one question a function.

| file           | examinations                                                                 |
|----------------|------------------------------------------------------------------------------|
| labels.py      | labels: do they ask for anything?                                            |
| targets.py     | targets: did they match all that they were meant for, experts too?           |
| reach.py       | passes, gradients: is each new tensor reached, and does it move by step two? |
| saved.py       | head, base: is what training changes what a file keeps?                      |
| weights.py     | tied weights, precision, merge: shared matrices, half precision, drift       |
| answers.py     | start, padding: answers that must not change                                 |
| subject.py     | what is examined; tuned_here.py and peft_models.py read it off a model       |
| visit.py       | one visit; census.py makes its two steps, untouched.py takes them back       |

An examination is given the visit and yields a `Finding` for each thing that is wrong. It raises
`LeftOut` with the reason where it does not apply.
"""

from minipeft.analysis.examinations.answers import padding, start
from minipeft.analysis.examinations.labels import examine_labels
from minipeft.analysis.examinations.reach import gradients, passes
from minipeft.analysis.examinations.saved import base, head
from minipeft.analysis.examinations.targets import targets
from minipeft.analysis.examinations.weights import merge, precision, tied

EXAMINATIONS = {
    "labels": examine_labels,
    "passes": passes,
    "targets": targets,
    "gradients": gradients,
    "head": head,
    "base": base,
    "tied weights": tied,
    "precision": precision,
    "merge": merge,
    "start": start,
    "padding": padding,
}
