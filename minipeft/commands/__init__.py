"""The commands of `python -m minipeft`, one file each: `add` says its flags, `run` does it.

| file                          | what                                                             |
|-------------------------------|------------------------------------------------------------------|
| train, evaluate, predict,     | the commands                                                     |
| generate, merge, inspect,     |                                                                  |
| doctor, compare, convert,     |                                                                  |
| support, lessons, claims,     |                                                                  |
| fetch, check                  |                                                                  |
| options                       | flags made from the dataclasses of the methods                   |
| bases, family_flag            | a name or folder -> a model with its tokenizer; --family         |
| opened, pooling               | a run, an adapter or a base -> a model that is ready to answer   |
| data, shortening, facts       | files -> a task; long inputs; what should be known of the data   |
| forms, asking                 | which columns hold what, conversations; what a run is asked      |
| fitting, find_rate, longer    | a run's training; its learning rate; a run that goes on          |
| scoring                       | answers of a model, scores, a table per label                    |
| runs, cards, run_config       | the folder of a run: log, curves; its model card; configuration  |
| folder_lock                   | one process at a time in a folder                                |
| writers                       | answers -> a file                                                |
"""
