"""The best mean score of one prompt for five tasks that share their inputs."""

from __future__ import annotations

from minipeft.checks.framework import NumberCheck

KINDS = (3, 2)  # tasks on rows, tasks on countries: the tasks of one kind never agree
TASKS = sum(KINDS)
CEILING = len(KINDS) / TASKS

one_prompt = NumberCheck(
    "one_prompt",
    "one answer to an input is right for one task of its kind: 2 of 5 scores' worth in all",
    CEILING,
    [
        (1.0, "an input has one answer, and it cannot be right for three tasks that disagree"),
        (1 / TASKS, "a row and a country are different inputs: one task of each kind can be right"),
        (5 / 12, "that is the mean over the two kinds; asked is the mean over the five tasks"),
        (2 / 3, "of three tasks that share a row one can be right, not two"),
        (1 / 2, "that holds for the two tasks on countries alone"),
        (1 / 3, "that holds for the three tasks on rows alone"),
        (TASKS, "that is a sum, with every task right; but tasks of one kind never agree"),
        (len(KINDS), "that is the sum of the five scores, asked is their mean"),
        (3 / TASKS, "that is what is lost: one answer is wrong for two row tasks and a country's"),
        (5 / 6, "that adds the means of the two kinds; asked is the mean over the five tasks"),
        (
            1 / 6,
            "that multiplies the means of the two kinds; five scores are averaged",
        ),
        (4 / TASKS, "at least two of three scores on rows are lost, and one of two on countries"),
        (100 * CEILING, "that is in per cent, asked is a number between 0 and 1"),
        (0.0, "for some task of each kind its answers can be right"),
    ],
    tolerance=0.01,
)
