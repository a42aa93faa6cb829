"""The commands of `python -m minipeft`, one file each: `add` says its flags, `run` does it.

| file                          | what                                                             |
|-------------------------------|------------------------------------------------------------------|
| train, evaluate, generate,    | the commands                                                     |
| merge, inspect, doctor,       |                                                                  |
| compare, convert, support,    |                                                                  |
| lessons, claims, fetch, check |                                                                  |
| options                       | flags made from the dataclasses of the methods                   |
| bases                         | a name or folder -> a model with its tokenizer                   |
| opened                        | a run, an adapter or a base -> a model that is ready to answer   |
| data                          | files -> a task                                                  |
| scoring                       | answers of a model, scores, a table per label                    |
| runs                          | the folder of a run: configuration, log, curves, card            |
| held                          | one process at a time in a folder                                |
"""
