"""From one reviewed source per lesson to a solution notebook, a student notebook and a web page.

    cut.py     takes an object out of the package, whole (solution) or with blanked bodies (stub)
    lesson.py  reads notebooks/src/NN_name.py and makes the two notebooks from it
    tables.py  fills in tables of equations and the lines of code that are these equations
    measure.py counts words, cells, lines and figures, against what the format allows
    run.py     executes a notebook in a fresh kernel
    rendering.py  cells and Markdown as HTML that needs no network
    pages.py   writes the web pages of the course
    slides.py  writes a presentation of each lesson
    docs.py    writes docs/*.md, with results_page.py, glossary.py and instructors.py

`python notebooks/build.py --help` is the command; CONTRIBUTING.md tells how to write a lesson.
"""
